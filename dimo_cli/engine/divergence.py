"""Token-level divergences D(p || q) between teacher p and auxiliary q, and their closed-form
gradients at the logits of q (Eq. 7 and supplement B.2).

Every f-divergence D = sum_k q_k f(u_k) with u = p / q (Eq. 17) has the logit gradient

    g_j = s_j - q_j sum_k s_k,    s = q (f(u) - u f'(u))        (Eq. 18)

so each divergence below states only its value and s, written in log-probabilities so that nothing
overflows. The gradient needs neither the student nor its logits: it is computed from teacher and
auxiliary alone and then handed to the student.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dimo_cli.errors import SpecError, did_you_mean
from dimo_cli.plugins import register_plugins
from dimo_cli.specs import divergences as specs

LARGEST_LOG_RATIO = 30.0  # exp(30) is the largest ratio u a generator f is asked for


class FDivergence(ABC):
    """An f-divergence between distributions given by log-probabilities [..., V]."""

    @abstractmethod
    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """D(p || q) of each distribution (Eq. 17)."""

    @abstractmethod
    def score(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """s = q (f(u) - u f'(u)), up to a multiple of q, which the gradient cancels.

        A new tensor, which `logit_gradient` may overwrite.
        """

    def logit_gradient(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Gradient of the divergence at the logits of q (Eq. 18).

        In place where it can be: at a large vocabulary every copy counts.
        """
        s = self.score(log_p, log_q)
        return s.sub_(log_q.exp().mul_(s.sum(-1, keepdim=True)))


class ForwardKL(FDivergence):
    """sum p log(p / q); f(u) = u log u."""

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    def score(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return log_p.exp().neg_()


class ReverseKL(FDivergence):
    """sum q log(q / p); f(u) = -log u."""

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return (log_q.exp() * (log_q - log_p)).sum(-1)

    def score(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return log_q.exp() * (log_q - log_p)


@dataclass(frozen=True)
class Jeffreys(FDivergence):
    """(1 - beta) forward KL + beta reverse KL; f(u) = ((1 - beta) u - beta) log u."""

    beta: float

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        forward, reverse = ForwardKL().value(log_p, log_q), ReverseKL().value(log_p, log_q)
        return (1 - self.beta) * forward + self.beta * reverse

    def score(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        forward, reverse = ForwardKL().score(log_p, log_q), ReverseKL().score(log_p, log_q)
        return (1 - self.beta) * forward + self.beta * reverse


class JensenShannon(FDivergence):
    """KL(p || m) + KL(q || m) with m = (p + q) / 2; f(u) = u log u - (u + 1) log((1 + u) / 2)."""

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        log_m = torch.logaddexp(log_p, log_q) - math.log(2)
        return ForwardKL().value(log_p, log_m) + ForwardKL().value(log_q, log_m)

    def score(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return log_q.exp() * (log_q - torch.logaddexp(log_p, log_q))


class SquaredHellinger(FDivergence):
    """sum (sqrt p - sqrt q)^2; f(u) = (sqrt u - 1)^2."""

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return ((0.5 * log_p).exp() - (0.5 * log_q).exp()).square().sum(-1)

    def score(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return -(0.5 * (log_p + log_q)).exp()


@dataclass(frozen=True)
class Alpha(FDivergence):
    """(sum q u^(1 - alpha) - 1) / (alpha (alpha - 1)); f(u) as in Table 4."""

    alpha: float

    def _mix(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """q u^(1 - alpha), with the ratio u bounded: outside 0 < alpha < 1 it can overflow."""
        log_u = (log_p - log_q).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
        return (log_q + (1 - self.alpha) * log_u).exp()

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return (self._mix(log_p, log_q).sum(-1) - 1) / (self.alpha * (self.alpha - 1))

    def score(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return self._mix(log_p, log_q) / (self.alpha - 1)


Generator = Callable[[Tensor], Tensor]

GENERATORS: dict[str, Generator] = {
    "forward_kl": lambda u: u * u.log(),
    "reverse_kl": lambda u: -u.log(),
    "jensen_shannon": lambda u: u * u.log() - (u + 1) * ((1 + u) / 2).log(),
    "squared_hellinger": lambda u: (u.sqrt() - 1).square(),
    "pearson": lambda u: (u - 1).square(),
    "le_cam": lambda u: (u - 1).square() / (u + 1),
    "neyman": lambda u: (1 - u).square() / (2 * u),
    "dmmd": lambda u: (1 + u) * ((1 + u) / (2 * u)).log() + u - 1,
}


def register_generator(name: str, f: Generator) -> None:
    """Make `loss.divergence: {kind: generator, name: NAME}` mean the f-divergence of `f`.

    `f` must be convex and differentiable with f(1) = 0; its derivative is taken by autograd.
    """
    GENERATORS[name] = f


@dataclass(frozen=True)
class FromGenerator(FDivergence):
    """The f-divergence of any generator f, differentiated by autograd."""

    f: Generator

    def _ratio(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return (log_p - log_q).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return (log_q.exp() * self.f(self._ratio(log_p, log_q))).sum(-1)

    def score(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        with torch.enable_grad():
            u = self._ratio(log_p, log_q).detach().requires_grad_()
            f = self.f(u)
            (slope,) = torch.autograd.grad(f.sum(), u)
        return log_q.exp() * (f.detach() - u.detach() * slope)


def load_plugins() -> None:
    """Register the generators of installed packages (entry point group `dimo.generators`)."""
    register_plugins("dimo.generators", register_generator)


def build_divergence(spec: specs.Divergence) -> FDivergence:
    """The divergence that a spec asks for."""
    match spec:
        case specs.ForwardKL():
            return ForwardKL()
        case specs.ReverseKL():
            return ReverseKL()
        case specs.Jeffreys():
            return Jeffreys(spec.beta)
        case specs.JensenShannon():
            return JensenShannon()
        case specs.SquaredHellinger():
            return SquaredHellinger()
        case specs.AlphaDivergence():
            return Alpha(spec.alpha)
        case specs.RegisteredGenerator():
            load_plugins()
            if spec.name not in GENERATORS:
                raise SpecError(
                    f"`loss.divergence.name` is {spec.name!r}, which is not registered.",
                    did_you_mean(spec.name, GENERATORS),
                )
            return FromGenerator(GENERATORS[spec.name])


def entropy_logit_gradient(logits: Tensor) -> Tensor:
    """Gradient of the entropy of softmax(logits) at the logits: -p (log p + H)."""
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(-1, keepdim=True)
    return -p * (log_p + entropy)
