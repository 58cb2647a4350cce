"""The drifting field: where generated points should move.

Every generated point is drawn to the positive points around it and pushed from the negative ones,
among which are the other generated points. Both pulls are weighted by a kernel that is normalized
over its rows and over its columns; where both sets have the same law, the pulls cancel.

Shapes: B sets at a time, N generated and P positive points of each, D coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BANDWIDTHS = (0.02, 0.05, 0.2)
FAR = 100.0  # what is added to the distance of a point to itself, in units of the mean distance


def distances(points: Tensor, others: Tensor) -> Tensor:
    """Euclidean, from each point [B, N, D] to each of the others [B, M, D]."""
    squares = points.square().sum(-1)[..., None] + others.square().sum(-1)[:, None]
    squares = squares - 2 * points @ others.transpose(-1, -2)
    return squares.clamp(min=1e-8).sqrt()


@torch.no_grad()
def drifting_field(
    generated: Tensor,
    positive: Tensor,
    negative: Tensor | None = None,
    bandwidths: Sequence[float] = BANDWIDTHS,
    weights: Tensor | None = None,
    mask_self: bool = True,
) -> tuple[Tensor, Tensor]:
    """The field V [B, N, D] in units of the scale, and the scale of the coordinates.

    `weights` [B, N + M + P] are those of generated, negative and positive points in this order. The
    mean distance and the length of V are made 1 over the whole call, so that the mean of V squared
    says nothing about how far the sets are apart. Without `mask_self`, V is 0 for equal sets.
    """
    negative = generated[:, :0] if negative is None else negative
    points = torch.cat([generated, negative, positive], 1)
    weights = torch.ones_like(points[..., 0]) if weights is None else weights
    apart = distances(generated, points)
    spread = (apart * weights[:, None]).mean() / weights.mean()
    scale = (spread / points.shape[-1] ** 0.5).clamp(min=1e-3)
    apart = apart / spread.clamp(min=1e-3)
    N, against = generated.shape[1], points.shape[1] - positive.shape[1]
    if mask_self:
        apart[:, :, :N] += FAR * torch.eye(N, device=apart.device, dtype=apart.dtype)
    field = torch.zeros_like(generated)
    for bandwidth in bandwidths:
        logits = -apart / bandwidth
        kernel = (logits.softmax(-1) * logits.softmax(-2)).clamp(min=1e-6).sqrt()
        away, towards = (kernel * weights[:, None]).split([against, positive.shape[1]], -1)
        pull = torch.cat(
            [-away * towards.sum(-1, keepdim=True), towards * away.sum(-1, keepdim=True)], -1
        )
        moved = (pull @ points - pull.sum(-1, keepdim=True) * generated) / scale
        field += moved / moved.square().mean().clamp(min=1e-8).sqrt()
    return field, scale


def drifting_loss(generated: Tensor, field: Tensor, scale: Tensor) -> Tensor:
    """|x / c - sg(x / c + V)|^2 of each set [B]: its gradient moves x along V, and it is |V|^2."""
    at = generated / scale
    return (at - (at + field).detach()).square().mean((-1, -2))
