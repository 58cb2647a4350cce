"""The little world of the teacher `shapes`: scenes, their captions, and their pictures.

A scene is one or two groups of objects on a plain background. Everything a caption says is true of
the picture. What it does not say is as in a picture book: objects are as large as there is room
for, those of a group look the same, and they stand in lines that are spread over the picture, in
the order that they are said in. Only colors and the background are drawn at random then. So a
picture can be checked against its caption by rules, and what is left open is little enough for one
pass of a small network.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # a world needs no PIL
    from dimo_cli.files.png import Pixels

SIDE = 32
Relation = Literal["left", "right", "above", "below"]

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (222, 42, 42),
    "green": (42, 168, 66),
    "blue": (48, 86, 222),
    "yellow": (240, 214, 40),
    "purple": (160, 60, 200),
    "orange": (246, 134, 30),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (246, 246, 246),
    "gray": (128, 128, 128),
    "black": (18, 18, 18),
}
SHAPES = ("circle", "square", "triangle")
SIZES: dict[str, int] = {"small": 3, "large": 5}  # half the side of the box around an object
# Where the centers of objects can be, in both directions. Large ones are a little off the middle:
# the patches of the tokenizer are 4 pixels wide, and so an object looks the same to it anywhere.
PLACES: dict[str, tuple[int, int, int]] = {"small": (4, 16, 28), "large": (6, 14, 26)}
SPREAD = {1: (1,), 2: (0, 2), 3: (0, 1, 2)}  # which places so many lines, or objects of one, take
NUMBERS = ("zero", "one", "two", "three", "four")
MOST = 4  # objects of one group

OPENINGS = ("", "", "", "a picture of ", "an image of ", "a drawing of ")
SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
JOINTS = ("and", "and", "with", "next to", "beside")
RELATION_WORDS: dict[Relation, tuple[str, ...]] = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
OPPOSITE: dict[Relation, Relation] = {
    "left": "right",
    "right": "left",
    "above": "below",
    "below": "above",
}
BACKGROUND_WORDS = ("on a {} background", "on {}", "in front of a {} background")


@dataclass(frozen=True, slots=True)
class Group:
    """Objects of one shape; a color or size of None is not said."""

    shape: str
    count: int = 1
    color: str | None = None
    size: str | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """What a caption says."""

    groups: tuple[Group, ...]
    relation: Relation | None = None
    """Where the first group is, seen from the second."""
    background: str | None = None


class Look(NamedTuple):
    """What an object of a picture looks like."""

    shape: str
    color: str
    size: str


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a picture."""

    shape: str
    color: str
    size: str
    x: int
    y: int


def stencil(shape: str, half: int) -> NDArray[np.bool_]:
    """The pixels of a shape within its box of 2 half + 1 pixels."""
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    if shape == "circle":
        return np.asarray(x**2 + y**2 <= (half + 0.4) ** 2)
    if shape == "triangle":  # point up, as wide as high
        return np.asarray(2 * np.abs(x) <= y + half)
    return np.ones_like(x, dtype=bool)


def render(things: Sequence[Thing], background: str) -> Pixels:
    """The picture [32, 32, 3] of these objects."""
    picture = np.empty((SIDE, SIDE, 3), np.uint8)
    picture[:] = BACKGROUNDS[background]
    for thing in things:
        half = SIZES[thing.size]
        box = picture[thing.y - half : thing.y + half + 1, thing.x - half : thing.x + half + 1]
        box[stencil(thing.shape, half)] = COLORS[thing.color]
    return picture


def random_scene(rng: random.Random) -> Scene:
    """Any scene that fits: one group, or two with or without a relation."""
    count = rng.choices((1, 2, 3, 4), (5, 2, 2, 2))[0]
    first = random_group(rng, count)
    background = rng.choice([*BACKGROUNDS, None, None, None])
    if rng.random() < 0.4:
        return Scene((first,), None, background)
    second = random_group(rng, rng.choices((1, 2), (5, 1))[0] if count < 3 else 1)
    while not are_told_apart(first, second):
        second = random_group(rng, second.count)
    relation = rng.choice([*RELATION_WORDS, None, None, None])
    return Scene((first, second), relation, background)


def are_told_apart(first: Group, second: Group) -> bool:
    """Whether no object can belong to both groups."""
    if first.shape != second.shape:
        return True
    return None not in (first.color, second.color) and first.color != second.color


def random_group(rng: random.Random, count: int) -> Group:
    """A group of this many objects; more than two are always small, so that they fit."""
    color = rng.choice(list(COLORS)) if rng.random() < 0.7 else None
    size = rng.choice(list(SIZES)) if rng.random() < 0.25 and count <= 2 else None
    return Group(rng.choice(SHAPES), count, color, size)


def compose(scene: Scene, rng: random.Random) -> tuple[list[Thing], str]:
    """Objects and background that make a scene true; what it does not say is drawn at random."""
    things = arrange(in_lines(scene, rng), scene.relation)
    return things, scene.background or rng.choice(list(BACKGROUNDS))


def in_lines(scene: Scene, rng: random.Random) -> list[list[Look]]:
    """Which objects stand in which line, in the order of the picture.

    Two objects stand side by side. More stand in a line for each group; four make two lines.
    """
    crowded = sum(group.count for group in scene.groups) > 2
    usual_size = "small" if crowded else "large"
    looks = [
        [Look(group.shape, group.color or rng.choice(list(COLORS)), group.size or usual_size)]
        * group.count
        for group in scene.groups
    ]
    if scene.relation in ("right", "below"):
        looks.reverse()
    if not crowded and not scene.relation:
        return [[look for members in looks for look in members]]
    return [
        line
        for members in looks
        for line in ([members[:2], members[2:]] if len(members) == MOST else [members])
    ]


def arrange(lines: Sequence[Sequence[Look]], relation: Relation | None) -> list[Thing]:
    """Spread the lines evenly over the picture, and the objects of a line over the line."""
    things = []
    for row, line in zip(SPREAD[len(lines)], lines, strict=True):
        for column, look in zip(SPREAD[len(line)], line, strict=True):
            x, y = PLACES[look.size][column], PLACES[look.size][row]
            if relation in ("left", "right"):
                x, y = y, x
            things.append(Thing(*look, x, y))
    return things


def caption(scene: Scene, rng: random.Random) -> str:
    """One of the ways to say a scene in English."""
    parts = [group_in_words(group, rng) for group in scene.groups]
    text = parts[0]
    if len(parts) == 2:
        joint = rng.choice(RELATION_WORDS[scene.relation] if scene.relation else JOINTS)
        text = f"{parts[0]} {joint} {parts[1]}"
    if scene.background:
        text += " " + rng.choice(BACKGROUND_WORDS).format(scene.background)
    return rng.choice(OPENINGS) + text


def group_in_words(group: Group, rng: random.Random) -> str:
    """A group in words, such as `two small red circles`."""
    words = [rng.choice(SIZE_WORDS[group.size])] if group.size else []
    words += [group.color] if group.color else []
    if group.count > 1:
        return " ".join([NUMBERS[group.count], *words, f"{group.shape}s"])
    words += [group.shape]
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([rng.choice((article, article, "one")), *words])


def vocabulary() -> tuple[str, ...]:
    """Every word that a caption can have, in a fixed order; the first is no word at all."""
    phrases = [
        *OPENINGS,
        *JOINTS,
        *BACKGROUND_WORDS,
        *(word for words in RELATION_WORDS.values() for word in words),
        *(word for words in SIZE_WORDS.values() for word in words),
        *COLORS,
        *BACKGROUNDS,
        *NUMBERS[1:],
        *SHAPES,
        *(f"{shape}s" for shape in SHAPES),
        "an the of is are there",
    ]
    words = {word for phrase in phrases for word in phrase.replace("{}", "").split()}
    return ("", *sorted(words))


def near_miss(scene: Scene, rng: random.Random) -> Scene:
    """A scene that differs in one thing, and that no picture of the first one can be true of."""
    first, *rest = scene.groups
    changes = [Scene((recount(first, rng), *rest), scene.relation, scene.background)]
    absent = [shape for shape in SHAPES if shape not in {group.shape for group in scene.groups}]
    if absent:
        other = replace(first, shape=rng.choice(absent))
        changes.append(replace(scene, groups=(other, *rest)))
    if first.color:
        taken = {group.color for group in scene.groups}
        free = [color for color in COLORS if color not in taken]
        other = replace(first, color=rng.choice(free))
        if None not in taken:  # an unnamed color could be just this one
            changes.append(replace(scene, groups=(other, *rest)))
    if scene.relation:
        changes += [replace(scene, relation=OPPOSITE[scene.relation])] * 2
    are_swappable = rest and first.shape != rest[0].shape and first.color != rest[0].color
    if are_swappable and first.color and rest[0].color:
        swapped = (replace(first, color=rest[0].color), replace(rest[0], color=first.color))
        changes += [replace(scene, groups=swapped)] * 2
    if scene.background:
        others = [name for name in BACKGROUNDS if name != scene.background]
        changes.append(replace(scene, background=rng.choice(others)))
    return rng.choice(changes)


def recount(group: Group, rng: random.Random) -> Group:
    """The same objects in another number, at least two."""
    numbers = [number for number in range(2, MOST + 1) if number != group.count]
    return replace(group, count=rng.choice(numbers), size=None)
