"""The benchmark of `emoji`: prompts of a known scene, and what of it a picture has right.

Four tasks ask for a thing and for one more fact of it, or none; the fifth says all there is to say.
A sixth asks for what no network was trained on: the style of a thing that was held out. It is told
beside the others, and the overall score is without it. Which way a thing faces is never asked.
"""

from __future__ import annotations

import random

from dimo_cli.metrics.tasks import Asked, ask
from dimo_cli.teachers.emoji.world import (
    BACKGROUNDS,
    PLACES,
    Look,
    Scene,
    caption,
    held_out,
    trained_on,
)

TASKS = ("name", "style", "background", "place", "all")
HELD_OUT = "held_out"
FACTS = {"name": "thing", **{name: name for name in ("style", "background", "size", "place")}}
"""What can be right of a picture, and the field of a scene that says it."""


Task = Asked[Scene]


def benchmark(per_task: int, seed: int = 0) -> list[Task]:
    """So many prompts of each task and of what was held out, the same for a seed."""
    return ask((*TASKS, HELD_OUT), per_task, seed, random_task, caption)


def random_task(name: str, rng: random.Random) -> Scene:
    """A scene that says what a task is about and nothing else."""
    thing, style = rng.choice(sorted(held_out()) if name == HELD_OUT else trained_on())
    background, place = rng.choice(list(BACKGROUNDS)), rng.choice(list(PLACES))
    if name in ("style", HELD_OUT):
        return Scene(thing, style)
    if name == "background":
        return Scene(thing, background=background)
    if name == "place":
        return Scene(thing, size="small", place=place)
    if name == "all" and rng.random() < 0.5:
        return Scene(thing, style, background, "large")
    if name == "all":
        return Scene(thing, style, background, "small", place)
    return Scene(thing)


def right_of(scene: Scene, seen: Look | None) -> dict[str, bool]:
    """Of each fact that a scene says, whether it is true of what was seen; None: nothing was."""
    return {
        fact: seen is not None and getattr(seen, field) == getattr(scene, field)
        for fact, field in FACTS.items()
        if getattr(scene, field) is not None
    }
