"""What a sample's gradient is multiplied by: w(t), and the divisor of `loss.reduction`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dimo_cli.engine.calibrated import calibrated_weights
from dimo_cli.engine.draws import chunks
from dimo_cli.engine.field import TeacherAt, guided
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.divergences import AdaptiveWeight, CalibratedWeight
from dimo_cli.teachers.protocol import Backbone, TokenSpace


def sample_weights(
    spec: DistillSpec,
    space: TokenSpace,
    mask: Tensor,
    gap: Callable[[], Tensor],
    still_open: int = 0,
) -> Tensor:
    """w(t) of each sample times the factor of the reduction, [B], under a mask [B, L, G].

    `gap` is asked for the `probability_gap` [B] where the weight follows it; `still_open` slots and
    one more are masked at least.
    """
    loss, slots = spec.loss, space.length * space.groups
    factor = torch.full((len(mask),), 1 / (len(mask) * spec.train.accumulate), device=mask.device)
    if loss.reduction == "mean":
        factor = factor / (slots * space.vocab)
    elif loss.reduction == "masked_mean":
        factor = factor / mask.flatten(1).sum(-1)
    if isinstance(loss.weight, CalibratedWeight):
        weights = calibrated_weights(spec.masking.student, slots, still_open, mask.device)
        return factor * weights[mask.flatten(1).sum(-1) - 1].to(factor.dtype)
    if isinstance(loss.weight, AdaptiveWeight):
        return factor / gap().clamp(min=loss.weight.floor)
    return factor * loss.weight.value


@torch.no_grad()
def probability_gap(
    student: Backbone,
    hidden: Tensor,
    teacher_logits: TeacherAt,
    temperature: float,
    chunk_tokens: int,
) -> Tensor:
    """Mean |p_theta(x_init) - p_phi(x_tilde)| of each sample over positions and ids, [B].

    The student's hidden states are [B, L, D]; `temperature` is the teacher's.
    """
    B, L, _ = hidden.shape
    flat, rows = hidden.detach().flatten(0, 1), torch.arange(B * L, device=hidden.device)
    gaps = []
    for part in chunks(B * L, chunk_tokens):
        p_theta = student.head(flat[part], rows[part] % L).float().softmax(-1)
        p_phi = guided(teacher_logits(rows[part])).div(temperature).softmax(-1)
        gaps.append((p_theta - p_phi).abs().mean((-1, -2)))
    return torch.cat(gaps).view(B, L).mean(-1)
