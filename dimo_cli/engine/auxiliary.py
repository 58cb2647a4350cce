"""The auxiliary's loss: how psi learns the student's own token distribution."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


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

    logits [N, V], targets [N], student_logits [N, V] (only needed if soft_weight > 0).
    The soft part is T^2 KL(student || auxiliary), averaged over the V ids as the released code
    does; the paper writes the KL the other way round and summed.
    """
    logits = logits.float()
    hard = F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="sum")
    if soft_weight == 0:
        return AuxiliaryLoss(hard, hard, hard.new_zeros(()))
    assert student_logits is not None
    log_p = (student_logits.float() / temperature).log_softmax(-1)
    log_q = (logits / temperature).log_softmax(-1)
    soft = temperature**2 * (log_p.exp() * (log_p - log_q)).mean(-1).sum()
    return AuxiliaryLoss(soft_weight * soft + (1 - soft_weight) * hard, hard, soft)
