"""What Python decides of a step, as tensors of fixed shapes that a card can find in one place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dimo_cli.teachers.protocol import Cond, moved


@dataclass(frozen=True, slots=True)
class Prepared:
    """The host's part of a step of one pass, which masks 1 + U times: for student and auxiliary."""

    cond: Cond
    init_mask: Tensor
    """Where x_init is masked [B, L, G]."""
    ratios: Tensor
    """Mask ratios [1 + U, B]."""
    masks: Tensor
    """Masks [1 + U, B, L, G]."""

    def to(self, device: torch.device) -> Prepared:
        """A copy on a device, from which a captured step reads."""
        tensors = {name: moved(t, device).clone() for name, t in self.cond.tensors.items()}
        own = (moved(t, device).clone() for t in (self.init_mask, self.ratios, self.masks))
        return Prepared(Cond(tensors, self.cond.texts), *own)

    def fill(self, fresh: Prepared) -> None:
        """Take over the numbers of another step."""
        pairs = [(tensor, fresh.cond.tensors[name]) for name, tensor in self.cond.tensors.items()]
        pairs += [
            (self.init_mask, fresh.init_mask),
            (self.ratios, fresh.ratios),
            (self.masks, fresh.masks),
        ]
        for kept, new in pairs:
            kept.copy_(moved(new, kept.device), non_blocking=True)
