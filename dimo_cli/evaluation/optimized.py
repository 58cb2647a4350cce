"""Images whose input is optimized for their prompt before they are measured (Table 3, "+TTS")."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import mean
from typing import Any

import torch

from dimo_cli.data.arrays import Batch, Images
from dimo_cli.rewards.protocol import Reward
from dimo_cli.rewards.registry import check_reward
from dimo_cli.sampling.tteo import Outcome, optimize_prompt, settled
from dimo_cli.specs.tteo import TteoSpec, budget_name
from dimo_cli.students.student import Student

AT_ONCE = 16  # images of a batch, each optimized by itself: how often progress is told
LoadRewards = Callable[[Sequence[str]], dict[str, Reward]]


class OptimizedImages(Images):
    """One image for each prompt, from starts with a seed of its own.

    So the images do not depend on how many processes share the work. Rewards are loaded with the
    first image: an evaluation that is kept needs none.
    """

    def __init__(
        self, student: Student, spec: TteoSpec, prompts: Sequence[str], load: LoadRewards
    ) -> None:
        self.student, self.spec = student, settled(student, spec)
        self.prompts, self.load = tuple(prompts), load
        for name in self.spec.rewards:
            check_reward(name)
        self.outcomes: list[tuple[float, float, float]] = []

    @property
    def protocol(self) -> dict[str, Any]:
        """What these images depend on, beside the seed."""
        spec = self.spec
        return {
            "network": f"student:{self.student.short_id}",
            "steps": 1,
            "temperature": spec.temperature,
            "tteo": {
                "budget": budget_name(spec.starts, spec.iterations),
                "rewards": dict(spec.rewards),
                "learning_rate": spec.learning_rate,
                "momentum": spec.momentum,
                "decode": spec.decode,
            },
        }

    def __len__(self) -> int:
        return len(self.prompts)

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        stop = len(self) if stop is None else stop
        loaded = self.load(list(self.spec.rewards))
        rewards = {name: (loaded[name], weight) for name, weight in self.spec.rewards.items()}
        for first in range(start, stop, size):
            numbers = range(first, min(first + size, stop))
            outcomes = [self._optimized(number, rewards) for number in numbers]
            pixels = [torch.from_numpy(outcome.after) for outcome in outcomes]
            images = torch.stack(pixels).permute(0, 3, 1, 2)
            yield Batch(images, first, self.prompts[first : first + len(numbers)])

    def _optimized(self, number: int, rewards: dict[str, tuple[Reward, float]]) -> Outcome:
        spec = self.spec.model_copy(update={"seed": self.spec.seed + number})
        outcome = optimize_prompt(self.student, rewards, self.prompts[number], spec)
        first, last = outcome.found.trace[0, 0], outcome.found.scores[outcome.found.best]
        self.outcomes.append((float(first), float(last), outcome.seconds))
        return outcome

    def notes(self) -> list[str]:
        """How far the score rose that was optimized, and what that took."""
        if not self.outcomes:
            return []  # this process had no share
        before, after, seconds = (mean(part) for part in zip(*self.outcomes, strict=True))
        return [
            f"TTEO raised the score that it selects by from {before:.3g} to {after:.3g} on "
            f"average, in {seconds:.2g} s an image."
        ]
