"""CatDrift: categorical drifting, without teacher, auxiliary or feature network.

Real images draw the student's tokens towards them, its other images push them away. With a kernel K
over images that falls with the share of tokens in which two of them differ,

    V = sum_j K(x, y_j) onehot(y_j) - sum_j K(x, x_j) onehot(x_j)

at every slot of an image x, over real images y and the student's other images of the same
condition. The student's logits z follow it: their target is softmax(z + eta V), and

    gradient at the logits:  p - softmax(z + eta V)

which vanishes where both sets have the same law. Published is only an abstract (SPIGM at ICML
2026): the kernel, its bandwidth and eta are choices of dimo's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dimo_cli.engine.draws import Source, chunks, on_host, own_generator, samples_among
from dimo_cli.engine.objective import Generation, Needs, WholeObjective
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.objectives import CatDriftSpec
from dimo_cli.specs.refine import RelaxSpec
from dimo_cli.teachers.protocol import Cond, moved

AT_ONCE = 2**24  # numbers of conditions that are compared at a time


def kernel(tokens: Tensor, others: Tensor, may: Tensor, bandwidth: float) -> Tensor:
    """How much each image [B, S] looks at each of the others [M, S], of those that it `may` [B, M].

    A softmax of minus the share of tokens that differ, in bandwidths of its mean.
    """
    apart = (tokens[:, None] != others).float().mean(-1)
    mean = apart.mean().clamp(min=1e-3)
    return (-apart / (bandwidth * mean)).masked_fill(~may, -torch.inf).softmax(-1)


def categorical_field(
    tokens: Tensor, real: Tensor, alike: Tensor, codes: int, bandwidth: float
) -> Tensor:
    """V [B, ..., codes] of drawn and of real tokens [B, ...]; `alike` [B, B]: of one condition.

    An image that is alone with its condition is compared with itself.
    """
    drawn, true = tokens.flatten(1), real.flatten(1)
    others = alike & ~torch.eye(len(alike), dtype=torch.bool, device=alike.device)
    others = torch.where(others.any(-1, keepdim=True), others, alike)
    field = torch.zeros(*drawn.shape, codes, device=tokens.device)
    for sign, images, may in ((1, true, alike), (-1, drawn, others)):
        weight = kernel(drawn, images, may, bandwidth)
        seen = F.one_hot(images, codes).flatten(1).to(weight.dtype)
        field += sign * (weight @ seen).unflatten(-1, field.shape[1:])
    return field.view(*tokens.shape, codes)


def drift_target(logits: Tensor, field: Tensor, eta: float) -> Tensor:
    """softmax(z + eta V) [..., V]."""
    return (logits + eta * field).softmax(-1)


def towards(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """p - target [..., V], and the cross-entropy [...] to the target that it descends."""
    log_p = logits.log_softmax(-1)
    return log_p.exp() - target, -(target * log_p).sum(-1)


def same_condition(cond: Cond) -> Tensor:
    """Whether two samples have the same condition, [B, B]."""
    alike = torch.ones(len(cond), len(cond), dtype=torch.bool, device=cond.device)
    for tensor in cond.tensors.values():
        flat = tensor.reshape(len(cond), -1)
        for part in chunks(flat.shape[1], max(1, AT_ONCE // len(cond) ** 2)):
            alike &= (flat[:, None, part] == flat[:, part]).all(-1)
    return alike


class CatDrift(WholeObjective):
    """The student's logits follow the drifting field of its tokens among real ones."""

    name = "catdrift"
    needs = Needs(images="data")

    def __init__(self, settings: CatDriftSpec, weight: float = 1.0) -> None:
        self.settings, self.weight = settings, weight

    def conditions(self, count: int) -> Cond | None:
        """Real and generated images share their conditions, so the data decides them."""
        data, source = self.run.supplies.data, on_host(self.run.generator)
        assert data is not None
        total, rows = samples_among(count, source)
        real, cond = data.draw(total, own_generator(source), rows)
        self.real = moved(real, self.run.generator.device)
        return cond

    def factor(self) -> float:
        return self.weight

    @torch.no_grad()
    def ask(
        self, generation: Generation, logits: Tensor, relax: RelaxSpec, generator: Source
    ) -> tuple[Tensor, Tensor] | None:
        alike, codes = same_condition(generation.cond), logits.shape[-1]
        bandwidth, eta = self.settings.bandwidth, self.settings.eta
        field = categorical_field(generation.tokens, self.real, alike, codes, bandwidth)
        gradient, loss = towards(logits, drift_target(logits, field, eta))
        return gradient / len(logits), loss.flatten(1).sum(-1)


def build(spec: DistillSpec, weight: float, **settings: Any) -> CatDrift:
    """The objective of `kind: catdrift`."""
    return CatDrift(CatDriftSpec.model_validate(settings), weight)
