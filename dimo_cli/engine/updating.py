"""What the updates of student and auxiliary use of the run that they belong to."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from dimo_cli.engine.field import TeacherAt
from dimo_cli.engine.losses import Losses
from dimo_cli.engine.masking import Mask
from dimo_cli.engine.objective import Generation, Run
from dimo_cli.teachers.protocol import Backbone, Cond


class Updating(Run, Protocol):
    """A run that looks at x_tilde, the student's tokens masked again."""

    auxiliary: Backbone
    losses: Losses

    @property
    def uses_auxiliary(self) -> bool:
        """Whether any objective has a use for one."""

    def draw_x_tilde(
        self, tokens: Tensor, which: int, kept: Tensor | None = None, still_open: int = 0
    ) -> tuple[Tensor, Tensor, Mask]:
        """Mask ratios [B], x_tilde and its mask."""

    def embeds(
        self, backbone: Backbone, generation: Generation, x_tilde: Tensor, mask: Tensor
    ) -> Tensor:
        """x_tilde [B, L, D] for a backbone."""

    def hidden(self, backbone: Backbone, embeds: Tensor, cond: Cond) -> Tensor:
        """Hidden states of embeddings."""

    def teacher_logits(self, embeds: Tensor, cond: Cond, mask_ratio: Tensor) -> TeacherAt:
        """One teacher pass over x_tilde."""
