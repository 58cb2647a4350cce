"""Rounds of a run: in each, the student learns from what it was itself when the round began."""

from __future__ import annotations

import torch

from dimo_cli.engine.lora import own_copy, trained_part
from dimo_cli.errors import SpecError
from dimo_cli.teachers.protocol import Backbone


class Rounds:
    """Equal shares of all steps, and the network that each of them learns from.

    That is kept in checkpoints, so a run that goes on has it.
    """

    def __init__(self, student: Backbone, count: int, steps: int) -> None:
        """In the first round `source` computes what the student starts as."""
        if count > steps:
            raise SpecError(
                f"{count} rounds do not fit into `train.steps` ({steps}).",
                "A round has a step at least.",
            )
        self.count, self.steps = count, steps
        self.source = own_copy(student).requires_grad_(False).eval()
        self.current = -1
        """The round that was turned to; none yet."""

    def of(self, step: int) -> int:
        """The round that a step is in."""
        return min(step, self.steps - 1) * self.count // self.steps

    def begins(self, step: int) -> bool:
        """Whether a step is the first one of a round."""
        return step == 0 or self.of(step) != self.of(step - 1)

    @torch.no_grad()
    def turn_to(self, step: int, student: Backbone) -> bool:
        """Be in the round of a step; whether that is another one than before.

        In the first step of a round the student becomes its source.
        """
        wanted, before = self.of(step), self.current
        self.current = wanted
        if wanted and self.begins(step):
            weights = trained_part(student).state_dict()
            trained_part(self.source).load_state_dict(weights)
            return True
        return wanted != before
