"""The auxiliary's loss: how psi learns the student's own token distribution."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dimo_cli.engine.fused import fused

IGNORED = -100  # the target of a slot that is not masked: it teaches nothing


@dataclass(frozen=True, slots=True)
class AuxiliaryLoss:
    """Sums over masked tokens; divide by their number for the mean."""

    total: Tensor
    plain: Tensor
    """The cross-entropy to the student's tokens alone, without smoothing: what the auxiliary knows
    of them, whatever it learns by."""


def auxiliary_loss(
    logits: Tensor,
    targets: Tensor,
    student_logits: Tensor | None = None,
    soft_weight: float = 0.0,
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
    scale: float = 1.0,
) -> tuple[AuxiliaryLoss, Tensor]:
    """Eq. 1 on the student's tokens, with the soft target of Eq. 19, summed over masked tokens.

    logits [N, V], targets [N] (`IGNORED` where nothing is masked), student_logits [N, V] (only
    needed if soft_weight > 0). The soft part is T^2 KL(student || auxiliary), averaged over the V
    ids as the released code does; the paper writes the KL the other way round and summed.

    Also the gradient [N, V] of the total at the logits, times `scale`.
    """
    if soft_weight == 0:
        hard, plain, gradient = smoothed_cross_entropy(logits, targets, label_smoothing, scale)
        return AuxiliaryLoss(hard, plain), gradient
    assert student_logits is not None
    hard_share = scale * (1 - soft_weight)
    hard, plain, gradient = smoothed_cross_entropy(logits, targets, label_smoothing, hard_share)
    log_p = (student_logits.float() / temperature).log_softmax(-1)
    log_q = (logits.float() / temperature).log_softmax(-1)
    ignored = targets == IGNORED
    kl = (log_p.exp() * (log_p - log_q)).mean(-1)
    soft = temperature**2 * kl.masked_fill(ignored, 0).sum()
    towards = (log_q.exp() - log_p.exp()).masked_fill(ignored[:, None], 0)
    gradient = gradient + scale * soft_weight * temperature / logits.shape[-1] * towards
    total = soft_weight * soft + (1 - soft_weight) * hard
    return AuxiliaryLoss(total, plain), gradient


def soft_target_gradient(log_psi: Tensor, p: Tensor) -> Tensor:
    """psi - p: of the cross-entropy of the auxiliary to soft targets p [..., V], at its logits."""
    return log_psi.exp() - p


@fused
def smoothed_cross_entropy(
    logits: Tensor, targets: Tensor, smoothing: float = 0.0, scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The summed cross-entropy of logits [N, V] to targets [N], smoothed over all V ids.

    Also the same without smoothing, and the gradient [N, V] of the smoothed one,
    softmax(z) - (1 - eps) onehot - eps / V, times `scale`.
    """
    counts = (targets != IGNORED)[:, None]
    picked = targets.clamp(min=0)[:, None]
    log_p = logits.float().log_softmax(-1)
    hard, spread = log_p.gather(-1, picked), log_p.mean(-1, keepdim=True)
    losses = ((smoothing - 1) * hard - smoothing * spread).masked_fill(~counts, 0)
    gradient = log_p.exp_()
    if smoothing:
        gradient.sub_(smoothing / logits.shape[-1])
    weight = counts * scale
    # Apart: 1 - p is not to be rounded as p is.
    at_targets = (gradient.gather(-1, picked) + (smoothing - 1)).mul_(weight).to(logits.dtype)
    rounded = gradient.mul_(weight).to(logits.dtype)
    plain = (-hard).masked_fill(~counts, 0)
    return losses.sum(), plain.sum(), rounded.scatter_(-1, picked, at_targets)
