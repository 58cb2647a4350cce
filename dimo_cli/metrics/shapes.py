"""A rule-based verifier of `shapes` pictures: what is on them, and whether it is what was asked.

It scores the six tasks of GenEval (single object, two objects, counting, colors, position, color
attribution), here without a detector: a picture is read by color, connected area and outline.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import center_of_mass, label

from dimo_cli.files.png import Pixels
from dimo_cli.metrics.tasks import Asked, ask
from dimo_cli.teachers.shapes.world import (
    BACKGROUNDS,
    COLORS,
    NUMBERS,
    RELATION_WORDS,
    SHAPES,
    SIDE,
    SIZES,
    Group,
    Scene,
    Thing,
    caption,
    stencil,
)

SMALLEST_AREA = 12  # pixels; half of the smallest object
LEAST_OVERLAP = 0.6  # of an object with the shape it is taken for
LEAST_DISTANCE = 2  # pixels between centers for one side of another
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attribution")


def read_picture(picture: Pixels) -> tuple[list[Thing], str]:
    """Objects and background of a picture [32, 32, 3], without what has no known outline."""
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    background = min(BACKGROUNDS, key=lambda name: float(distance(border, BACKGROUNDS[name]).sum()))
    to_colors = np.stack([distance(picture, color) for color in COLORS.values()])
    is_object = to_colors.min(0) < distance(picture, BACKGROUNDS[background])
    areas, count = label(is_object)
    things = []
    for number in range(1, count + 1):
        area = areas == number
        if area.sum() < SMALLEST_AREA:
            continue
        votes = np.bincount(to_colors[:, area].argmin(0), minlength=len(COLORS))
        y, x = center_of_mass(area)
        outline = best_outline(area, round(x), round(y))
        if outline is not None:
            shape, size, x, y = outline
            things.append(Thing(shape, list(COLORS)[int(votes.argmax())], size, x, y))
    return things, background


def distance(pixels: NDArray[np.uint8], color: tuple[int, int, int]) -> NDArray[np.float64]:
    """Distance of every pixel to a color."""
    result: NDArray[np.float64] = np.linalg.norm(pixels.astype(float) - color, axis=-1)
    return result


def best_outline(area: NDArray[np.bool_], x: int, y: int) -> tuple[str, str, int, int] | None:
    """The shape, size and place that overlap best with an area around (x, y)."""
    near = [
        (left, top)
        for left, top in product((x - 1, x, x + 1), range(y - 2, y + 3))
        if 0 <= left < SIDE and 0 <= top < SIDE
    ]
    forms, inside = outlines()
    rows = [top * SIDE + left for left, top in near]
    common = forms[:, rows] @ area.ravel().astype(np.float32)
    overlaps = common / (inside[:, rows] + area.sum() - common)
    form, place = divmod(int(overlaps.argmax()), len(near))
    if overlaps[form, place] <= LEAST_OVERLAP:
        return None
    shape, size = list(product(SHAPES, SIZES))[form]
    return shape, size, *near[place]


@cache
def outlines() -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Every shape in every size at every place, as far as it is inside, and its pixels there."""
    forms = np.zeros((len(SHAPES), len(SIZES), SIDE * SIDE, SIDE, SIDE), np.float32)
    for (kind, shape), (number, half) in product(enumerate(SHAPES), enumerate(SIZES.values())):
        wide = np.zeros((SIDE + 2 * half, SIDE + 2 * half), np.float32)
        for place in range(SIDE * SIDE):
            top, left = divmod(place, SIDE)
            wide[:] = 0
            wide[top : top + 2 * half + 1, left : left + 2 * half + 1] = stencil(shape, half)
            forms[kind, number, place] = wide[half : half + SIDE, half : half + SIDE]
    flat = forms.reshape(len(SHAPES) * len(SIZES), SIDE * SIDE, SIDE * SIDE)
    return flat, flat.sum(-1, dtype=np.float64)


def is_true(scene: Scene, picture: Pixels) -> bool:
    """Whether a picture shows what a scene says.

    Of one object at least one must be there, of several exactly so many.
    """
    return holds(scene, *read_picture(picture))


def holds(scene: Scene, things: Sequence[Thing], background: str) -> bool:
    """Whether a scene is true of these objects before this background."""
    if scene.background not in (None, background):
        return False
    members = [[thing for thing in things if fits(thing, group)] for group in scene.groups]
    for group, found in zip(scene.groups, members, strict=True):
        if not found or (group.count > 1 and len(found) != group.count):
            return False
    return scene.relation is None or on_side(members[0], members[1], scene.relation)


def fits(thing: Thing, group: Group) -> bool:
    """Whether an object is one of a group, as far as the group says."""
    return (
        thing.shape == group.shape
        and group.color in (None, thing.color)
        and group.size in (None, thing.size)
    )


def on_side(first: Sequence[Thing], second: Sequence[Thing], relation: str) -> bool:
    """Whether the first objects are, on the whole, on that side of the second."""
    dx = np.mean([t.x for t in first]) - np.mean([t.x for t in second])
    dy = np.mean([t.y for t in first]) - np.mean([t.y for t in second])
    offset = {"left": -dx, "right": dx, "above": -dy, "below": dy}[relation]
    return bool(offset > LEAST_DISTANCE)


Task = Asked[Scene]


def benchmark(per_task: int, seed: int = 0) -> list[Task]:
    """So many prompts of each of the six tasks, the same for a seed."""
    return ask(TASKS, per_task, seed, random_task, caption)


def random_task(name: str, rng: random.Random) -> Scene:
    """A scene that asks for what a task is about and for nothing else."""
    first, second = rng.sample(SHAPES, 2)
    red, blue = rng.sample(list(COLORS), 2)
    if name == "single_object":
        return Scene((Group(first),))
    if name == "two_object":
        return Scene((Group(first), Group(second)))
    if name == "counting":
        return Scene((Group(first, rng.randrange(2, len(NUMBERS))),))
    if name == "colors":
        return Scene((Group(first, color=red),))
    if name == "position":
        return Scene((Group(first), Group(second)), rng.choice(list(RELATION_WORDS)))
    return Scene((Group(first, color=red), Group(second, color=blue)))
