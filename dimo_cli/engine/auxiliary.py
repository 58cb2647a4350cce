"""The auxiliary's loss: how psi learns the student's own token distribution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from dimo_cli.engine.fused import fused

IGNORED = -100  # the target of a slot that is not masked: it teaches nothing


@dataclass(frozen=True, slots=True)
class AuxiliaryLoss:
    """Sums over masked tokens; divide by their number for the mean."""

    total: Tensor
    hard: Tensor
    soft: Tensor


def auxiliary_loss(
    logits: Tensor,
    targets: Tensor,
    student_logits: Tensor | None = None,
    soft_weight: float = 0.0,
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
) -> AuxiliaryLoss:
    """Eq. 1 on the student's tokens, with the soft target of Eq. 19, summed over masked tokens.

    logits [N, V], targets [N] (`IGNORED` where nothing is masked), student_logits [N, V] (only
    needed if soft_weight > 0). The soft part is T^2 KL(student || auxiliary), averaged over the V
    ids as the released code does; the paper writes the KL the other way round and summed.
    """
    hard = smoothed_cross_entropy(logits, targets, label_smoothing)
    if soft_weight == 0:
        return AuxiliaryLoss(hard, hard, hard.new_zeros(()))
    assert student_logits is not None
    log_p = (student_logits.float() / temperature).log_softmax(-1)
    log_q = (logits.float() / temperature).log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).mean(-1)
    soft = temperature**2 * kl.masked_fill(targets == IGNORED, 0).sum()
    return AuxiliaryLoss(soft_weight * soft + (1 - soft_weight) * hard, hard, soft)


def anchored_loss(log_psi: Tensor, phi: Tensor) -> Tensor:
    """D-MMD: the cross-entropy [...] of the auxiliary log psi [..., V] to the teacher's phi."""
    return -(phi * log_psi).sum(-1)


def smoothed_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """The summed cross-entropy of logits [N, V] to targets [N], smoothed over all V ids.

    It keeps one tensor of the logits' size, the gradient itself, where autograd would keep several.
    """
    loss: Tensor = _SmoothedCrossEntropy.apply(logits, targets, smoothing)
    return loss


@fused
def _cross_entropy(
    logits: Tensor, targets: Tensor, smoothing: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The summed loss, its gradient [N, V] but for the targets, and there [N, 1]."""
    counts = (targets != IGNORED)[:, None]
    picked = targets.clamp(min=0)[:, None]
    log_p = logits.float().log_softmax(-1)
    hard, spread = log_p.gather(-1, picked), log_p.mean(-1, keepdim=True)
    losses = ((smoothing - 1) * hard - smoothing * spread).masked_fill(~counts, 0)
    gradient = log_p.exp_()
    if smoothing:
        gradient.sub_(smoothing / logits.shape[-1])
    at_targets = (gradient.gather(-1, picked) + (smoothing - 1)).mul_(counts)
    # Apart: 1 - p is not to be rounded as p is.
    return losses.sum(), gradient.mul_(counts).to(logits.dtype), at_targets.to(logits.dtype)


class _SmoothedCrossEntropy(torch.autograd.Function):
    """Loss and gradient in one pass: softmax(z) - (1 - eps) onehot - eps / V."""

    @staticmethod
    def forward(ctx: FunctionCtx, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        loss, gradient, at_targets = _cross_entropy(logits, targets, smoothing)
        gradient.scatter_(-1, targets.clamp(min=0)[:, None], at_targets)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient.mul_(upstream), None, None  # in place: nobody needs it again
