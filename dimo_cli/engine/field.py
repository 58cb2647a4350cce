"""What teacher and auxiliary ask of the student's logits (Eq. 7), from their logits to a gradient.

It is one row-wise function, so that a card computes it in one go and keeps no float32 tensor of
the vocabulary's size: logits come in, and the gradient leaves, in the precision of the heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dimo_cli.engine.divergence import FDivergence
from dimo_cli.engine.fused import fused


@dataclass(frozen=True, slots=True)
class TeacherLogits:
    """What the teacher says of some rows [n]: logits [n, G, V], and how to guide them."""

    conditional: Tensor
    unconditional: Tensor | None = None
    scale: Tensor | None = None
    """Guidance s [n, 1, 1] of each row, where there are two."""


TeacherAt = Callable[[Tensor], TeacherLogits]
"""What the teacher says at flat rows [n] of a pass."""


def log_probs(logits: Tensor, temperature: float) -> Tensor:
    """log softmax(z / T)."""
    return (logits if temperature == 1 else logits / temperature).log_softmax(-1)


def guided(teacher: TeacherLogits) -> Tensor:
    """z_u + s (z_c - z_u) in float32, or z_c without guidance. In place where they are float32."""
    return guide(teacher.conditional, teacher.unconditional, teacher.scale)


def guide(conditional: Tensor, unconditional: Tensor | None, scale: Tensor | None) -> Tensor:
    """As `guided`, of its parts."""
    conditional = conditional.float()
    if unconditional is None or scale is None:
        return conditional
    unconditional = unconditional.float()
    return conditional.sub_(unconditional).mul_(scale).add_(unconditional)


@torch.no_grad()
def logit_field(
    divergence: FDivergence,
    teacher: TeacherLogits,
    auxiliary: Tensor,
    weight: Tensor,
    temperatures: tuple[float, float] = (1.0, 1.0),
    measure: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Eq. 7 at rows [n]: the gradient [n, G, V] times `weight` [n, G, 1], rounded as logits are.

    `temperatures` are those of teacher and auxiliary. With `measure`, also the divergence [n, G].
    """
    conditional, unconditional, scale = teacher.conditional, teacher.unconditional, teacher.scale
    return _field(
        conditional, unconditional, scale, auxiliary, weight, divergence, temperatures, measure
    )


@fused
def _field(
    conditional: Tensor,
    unconditional: Tensor | None,
    scale: Tensor | None,
    auxiliary: Tensor,
    weight: Tensor,
    divergence: FDivergence,
    temperatures: tuple[float, float],
    measure: bool,
) -> tuple[Tensor, Tensor | None]:
    log_p = log_probs(guide(conditional, unconditional, scale), temperatures[0])
    log_q = log_probs(auxiliary.float(), temperatures[1])
    gradient = divergence.logit_gradient(log_p, log_q).mul_(weight)
    value = divergence.value(log_p, log_q) if measure else None
    return gradient.to(auxiliary.dtype), value
