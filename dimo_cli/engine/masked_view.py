"""What objectives are shown of a pass: its masked positions, a chunk at a time."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dimo_cli.engine.field import TeacherAt
from dimo_cli.engine.masking import Mask
from dimo_cli.engine.objective import MaskedRows
from dimo_cli.teachers.protocol import Backbone


def needed(name: str, found: Tensor | None) -> Tensor:
    """What a network says, which is there if an objective has said that it needs it."""
    if found is None:
        raise TypeError(f"an objective asks for the {name}, which its `needs` do not name")
    return found


@dataclass(frozen=True, slots=True)
class MaskedView:
    """The student's tokens of a pass under a mask, and what each network says of them."""

    tokens: Tensor
    """What the student drew [B, L, G]."""
    mask: Mask
    weight: Tensor
    """That of each sample [B]."""
    teacher: TeacherAt
    auxiliary: Backbone
    auxiliary_hidden: Tensor | None
    """What the auxiliary made of x_tilde [B, L, D], if an objective needs it."""
    temperatures: tuple[float, float]
    kept: Tensor | None = None
    """Slots [B, L, G] that the student did not draw: it is asked for nothing there."""

    def auxiliary_logits(self, here: Tensor) -> Tensor:
        """Those of flat rows [n]."""
        hidden = needed("auxiliary", self.auxiliary_hidden).detach().flatten(0, 1)
        logits: Tensor = self.auxiliary.head(hidden[here], here % self.tokens.shape[1])
        return logits

    def rows(self, part: slice, student: Tensor | None) -> MaskedRows:
        """A chunk of masked positions, with the student's logits there."""
        here = self.mask.rows[part]
        sample = here.div(self.tokens.shape[1], rounding_mode="floor")
        slots = self.mask.slots.flatten(0, 1)[here]
        drawn = slots if self.kept is None else slots & ~self.kept.flatten(0, 1)[here]
        return MaskedRows(
            teacher=lambda: self.teacher(here),
            auxiliary=lambda: self.auxiliary_logits(here),
            student=lambda: needed("student", student).detach().clone(),
            tokens=lambda: self.tokens.flatten(0, 1)[here],
            slots=slots,
            masked=lambda: self.mask.slots.flatten(1).sum(-1)[sample],
            scale=(drawn * self.weight[sample][:, None])[..., None],
            temperatures=self.temperatures,
        )
