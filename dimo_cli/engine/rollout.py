"""Students of a few steps: what each step keeps of its tokens, and what the next one starts from.

A step draws all slots that are still open. Of these a random part stays, as large as the teacher's
mask schedule says, and the rest is masked again; the last step leaves nothing open. Which slots
stay is drawn apart from the tokens: the kept part of a sample then has the law of that part of all
samples, as for a teacher that reveals its tokens in random order, and a student whose steps are
right is right as a whole. Where the most confident tokens stay, it is not: likely ones are kept too
often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dimo_cli.engine.draws import Source, integers, on_host, own_generator
from dimo_cli.engine.masking import random_ranks
from dimo_cli.teachers.plans import SCHEDULES, mask_progress, masked_counts

CERTAIN = 1e4
"""By how much the logit of a kept token is above all others: e to minus this is 0."""

ONE_STEP = (0,)

Path = tuple[int, ...]
"""A step, as the open slots after each of the steps before it."""


def open_counts(schedule: str, steps: int, slots: int) -> tuple[int, ...]:
    """How many slots are open after each of a student's steps, by a teacher's mask schedule."""
    return tuple(masked_counts(SCHEDULES[schedule](mask_progress(schedule, steps))[1:], slots))


@dataclass(frozen=True, slots=True)
class Start:
    """What a step of the student sees [B, L, G], and the tokens of it that are kept."""

    tokens: Tensor
    kept: Tensor | None = None
    """Which slots keep their token; None: a first step, which draws them all."""
    order: Tensor | None = None
    """In which order slots are kept, the last one first [B, L G]; drawn when it is needed."""

    def filled(self, drawn: Tensor) -> Tensor:
        """All tokens, once the open slots have been drawn."""
        return drawn if self.kept is None else torch.where(self.kept, self.tokens, drawn)

    def after(self, drawn: Tensor, still_open: int, mask_id: int, source: Source) -> Start:
        """What the next step sees, where so many slots are to be open."""
        order = self.order
        if order is None:
            order = random_ranks(len(drawn), drawn[0].numel(), source)
        kept = (order >= still_open).view_as(drawn)
        tokens = self.filled(drawn).masked_fill(~kept, mask_id)
        return replace(self, tokens=tokens, kept=kept, order=order)


@dataclass(frozen=True, slots=True)
class Rollout:
    """The steps that a student is trained for: those of every number of steps that it may take."""

    plans: Sequence[tuple[int, ...]]
    """Open slots after each step, of every such number."""

    @classmethod
    def of(cls, counts: Sequence[int], schedule: str, slots: int) -> Rollout:
        """That of a student which may draw in any of these numbers of steps."""
        return cls([open_counts(schedule, count, slots) for count in counts])

    @property
    def paths(self) -> list[Path]:
        """All steps that are trained, the first one, which all numbers have, counted once."""
        return list(dict.fromkeys(plan[:step] for plan in self.plans for step in range(len(plan))))

    def still_open(self, path: Path) -> int:
        """How many slots a step leaves open at least, in whatever number of steps it is taken."""
        steps = [plan[: len(path) + 1] for plan in self.plans if len(plan) > len(path)]
        return min(taken[-1] for taken in steps if taken[:-1] == path)

    def draw(self, source: Source) -> Path:
        """A step to train, each as likely as any other.

        It is drawn for all samples of a training step, which take as many passes of the network.
        """
        paths = self.paths
        return paths[pick(len(paths), source)] if len(paths) > 1 else ()


def pick(count: int, source: Source) -> int:
    """One of `count`, the same for all samples of a step."""
    drawn = int(integers(count, (1,), own_generator(on_host(source))))
    return drawn % count  # planners draw in shapes alone, where any number may come


def certain_logits(tokens: Tensor, vocab: int) -> Tensor:
    """Logits [..., V] of a network that is certain of tokens [...]."""
    return CERTAIN * (torch.nn.functional.one_hot(tokens, vocab) - 1).float()
