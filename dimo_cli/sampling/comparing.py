"""One row of a comparison: a model's image for each column, and each column a condition and a seed.

Every image is drawn by itself from its column's seed, so all rows begin from equal seeds and
`dimo sample --seed` draws any of them again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dimo_cli.errors import counted
from dimo_cli.files.png import Pixels
from dimo_cli.sampling.left_out import words_left_out
from dimo_cli.sampling.samplers import provenance, sample_images
from dimo_cli.sampling.unmasking import sample_with_steps, start_of
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.specs.sides import Side
from dimo_cli.students.target import Target
from dimo_cli.teachers.classes import short_name

MOST_FRAMES = 48


@dataclass(frozen=True)
class Column:
    """What is drawn, from which seed."""

    wanted: int | str
    name: str
    seed: int


@dataclass(frozen=True)
class Row:
    """A model's images [N, H, W, 3], one for each column, and how they came about."""

    who: str
    count: int
    """Steps from masks to images."""
    pixels: Pixels
    film: list[Pixels]
    """The first columns after every step; empty where nobody asked for it."""
    columns: list[Column]
    document: dict[str, Any]

    @property
    def label(self) -> str:
        """Who drew it, in how many steps."""
        return f"{self.who}, {counted(self.count, 'step')}"

    def at(self, tick: int) -> tuple[str, Pixels]:
        """How far it is after that many steps, in words and in pictures; it waits at its end."""
        done = min(tick, self.count)
        whole = done == self.count  # of a student no other step is kept
        at_hand = whole or 0 < done <= len(self.film) - 1
        shown = self.film[-1 if whole else done - 1] if at_hand else start_of(self.film[-1])
        return f"{self.who}, step {done} of {self.count}", shown


def columns_of(target: Target, wanted: Sequence[int | str], seed: int) -> list[Column]:
    """Each condition from the first seed, then each from the next one."""
    names = target.teacher.class_names
    times: dict[int | str, int] = {}
    columns = []
    for item in wanted:
        name = item if isinstance(item, str) else short_name(names[item])
        columns.append(Column(item, name, seed + times.get(item, 0)))
        times[item] = times.get(item, 0) + 1
    return columns


def draw_row(
    side: Side,
    sampler: SamplerSpec,
    target: Target,
    wanted: Sequence[int | str],
    advance: Callable[[int], None],
    moving: int = 0,
) -> Row:
    """Draw every column, and tell all that makes the images repeatable.

    Of as many columns as are to be `moving` every step is kept.
    """
    columns = columns_of(target, wanted, sampler.seed)
    films: list[list[Pixels]] = []
    images: list[Pixels] = []
    protocol: dict[str, Any] = {}
    started = time.perf_counter()
    for column in columns:
        one = sampler.model_copy(update={"seed": column.seed})
        draw = sample_with_steps if len(films) < moving else sample_at_once
        film, protocol = draw(target, [column.wanted], one)
        images.append(film[-1])
        films += [film] if len(films) < moving else []
        advance(1)
    seconds = time.perf_counter() - started
    who = f"{side.name} teacher" if side.is_teacher else side.name
    steps = [np.concatenate(pictures) for pictures in zip(*films, strict=True)]
    row = Row(who, protocol["steps"], np.concatenate(images), steps, columns, {})
    left_out = words_left_out(target.teacher, [c.name for c in columns])
    about = {
        "label": row.label,
        "seconds": round(seconds, 4),
        **provenance(target, sampler, protocol),
        "dimo.sampler": protocol,
        "prompts" if target.teacher.takes_prompts else "classes": list(wanted),
        "seeds": [column.seed for column in columns],
        **({"left_out": list(left_out)} if left_out else {}),
    }
    return replace(row, document=about)


def sample_at_once(
    target: Target, wanted: Sequence[int | str], spec: SamplerSpec
) -> tuple[list[Pixels], dict[str, Any]]:
    """The images alone, without those of the steps before."""
    pixels, protocol = sample_images(target, wanted, spec)
    return [pixels], protocol


def ticks_of(rows: Sequence[Row]) -> list[int]:
    """The steps that an animation shows: from none to the last of the slowest row."""
    last = max(row.count for row in rows)
    frames = min(last, MOST_FRAMES)
    return [round(index * last / frames) for index in range(frames + 1)]
