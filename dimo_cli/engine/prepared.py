"""What Python decides of a step, as tensors of fixed shapes that a card can find in one place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dimo_cli.teachers.protocol import Cond, moved


@dataclass(frozen=True, slots=True)
class PreparedStart:
    """The host's part of what the student starts from, once."""

    cond: Cond
    mask: Tensor
    """Where x_init is masked [B, L, G]."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The host's part of a step of one pass, which masks 1 + U times: for student and auxiliary."""

    starts: Sequence[PreparedStart]
    """In the order in which the student starts: one, or 1 + U with `auxiliary.fresh_samples`."""
    ratios: Tensor
    """Mask ratios [1 + U, B]."""
    masks: Tensor
    """Masks [1 + U, B, L, G]."""
    asked: Sequence[Mapping[str, Tensor]]
    """What each objective decides of its own, by its names."""

    def tensors(self) -> Iterator[Tensor]:
        """All of it, in an order that depends on the run alone."""
        for start in self.starts:
            yield from start.cond.tensors.values()
            yield start.mask
        yield from (self.ratios, self.masks)
        for tensors in self.asked:
            yield from tensors.values()

    def to(self, device: torch.device) -> Prepared:
        """A copy on a device, from which a captured step reads.

        Its conditions have no texts, by which networks look up what they know of a prompt: tensors
        that are filled again and again are never those of the same one.
        """

        def own(tensor: Tensor) -> Tensor:
            return moved(tensor, device).clone()

        starts = [
            PreparedStart(
                Cond({name: own(tensor) for name, tensor in start.cond.tensors.items()}),
                own(start.mask),
            )
            for start in self.starts
        ]
        asked = [{name: own(tensor) for name, tensor in one.items()} for one in self.asked]
        return Prepared(starts, own(self.ratios), own(self.masks), asked)

    def fits(self, fresh: Prepared) -> bool:
        """Whether the numbers of another step have the same shapes; texts may be longer in one."""
        pairs = zip(self.tensors(), fresh.tensors(), strict=True)
        return all(kept.shape == new.shape for kept, new in pairs)

    def fill(self, fresh: Prepared) -> None:
        """Take over the numbers of another step."""
        for kept, new in zip(self.tensors(), fresh.tensors(), strict=True):
            kept.copy_(moved(new, kept.device), non_blocking=True)
