"""The frozen teacher's look at x_tilde: one pass, over both halves where it is guided."""

from __future__ import annotations

import torch
from torch import Tensor

from dimo_cli.engine.field import TeacherAt, TeacherLogits
from dimo_cli.engine.schedules import guidance_scale
from dimo_cli.specs.teacher import TeacherGuidance
from dimo_cli.teachers.protocol import Backbone, Cond, Teacher, moved


def plain_hidden(backbone: Backbone, embeds: Tensor, cond: Cond) -> Tensor:
    """Hidden states of embeddings without noise: how teacher and auxiliary see x_tilde."""
    hidden = backbone.hidden(embeds, cond)
    assert isinstance(hidden, Tensor)
    return hidden


class TeacherPass:
    """What a teacher says of embeddings, under a guidance."""

    def __init__(self, teacher: Teacher, guidance: TeacherGuidance) -> None:
        self.teacher, self.guidance = teacher, guidance
        self.null: Cond | None = None

    @torch.no_grad()
    def logits(self, embeds: Tensor, cond: Cond, mask_ratio: Tensor) -> TeacherAt:
        """One pass over embeddings [B, L, D]; the result projects flat rows [n] to logits."""
        backbone, length = self.teacher.backbone, self.teacher.space.length
        guided = self.guidance.needs_null
        if guided:
            scale = moved(guidance_scale(self.guidance, mask_ratio), embeds.device)
            null = self.null_conditions(len(cond), embeds.device)
            embeds = torch.cat([embeds, embeds])
            cond = Cond.cat([backbone.prepared(cond), null])
        flat = plain_hidden(backbone, embeds, cond).flatten(0, 1)

        @torch.no_grad()
        def project(rows: Tensor) -> TeacherLogits:
            conditional = backbone.head(flat[rows], rows % length)
            if not guided:
                return TeacherLogits(conditional)
            unconditional = backbone.head(flat[rows + len(flat) // 2], rows % length)
            s = scale[rows.div(length, rounding_mode="floor")][:, None, None]
            return TeacherLogits(conditional, unconditional, s)

        return project

    def null_conditions(self, count: int, device: torch.device) -> Cond:
        """The unconditional half of guidance, brought to the device once."""
        if self.null is None:
            null = self.teacher.conditioner.null(1).to(device)
            self.null = self.teacher.backbone.prepared(null)
        return self.null.times(count)
