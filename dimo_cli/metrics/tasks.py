"""The benchmark of an embedded world: prompts of known scenes, so many of each task."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Asked(Generic[S]):
    """One prompt of a benchmark."""

    name: str
    """The task that it is of."""
    prompt: str
    scene: S


def ask(
    names: Sequence[str],
    per_task: int,
    seed: int,
    scene_for: Callable[[str, random.Random], S],
    caption: Callable[[S, random.Random], str],
) -> list[Asked[S]]:
    """So many prompts of each of these tasks, the same for a seed."""
    rng = random.Random(seed)
    asked = []
    for name in names:
        for _ in range(per_task):
            scene = scene_for(name, rng)
            asked.append(Asked(name, caption(scene, rng), scene))
    return asked
