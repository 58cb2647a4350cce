"""Grids of the same conditions and seeds every time, so that they can be compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from dimo_cli import __version__
from dimo_cli.files.png import Pixels, enlarge, grid, save_png
from dimo_cli.sampling.samplers import sample_images
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.student import Student
from dimo_cli.students.target import Target
from dimo_cli.teachers.classes import short_name
from dimo_cli.teachers.conditioning import PromptConditioner
from dimo_cli.teachers.protocol import Teacher

PREVIEW_SEED = 7

MOST_IMAGES, COLUMNS, SMALLEST_SIDE = 20, 5, 240


def condition_names(teacher: Teacher, wanted: Sequence[int] | Sequence[str]) -> list[str]:
    """Classes by their names; prompts as they are."""
    return [
        item if isinstance(item, str) else short_name(teacher.class_names[item]) for item in wanted
    ]


def draw_comparison(
    student: Student,
    teacher_steps: Sequence[int],
    wanted: Sequence[int] | Sequence[str],
    folder: Path,
) -> None:
    """The same conditions by the teacher at several step counts, and by the student at its own."""
    target, wanted = Target(student.teacher, student), wanted[:MOST_IMAGES]
    samplers = {
        f"teacher-{steps}": SamplerSpec(teacher=True, steps=steps, seed=PREVIEW_SEED)
        for steps in teacher_steps
    }
    for count in student.manifest.step_counts:
        samplers[f"student-{count}"] = SamplerSpec(steps=count, seed=PREVIEW_SEED)
    about = {
        "dimo.version": __version__,
        "dimo.conditions": json.dumps(condition_names(student.teacher, wanted)),
    }
    for name, sampler in samplers.items():
        pixels, protocol = sample_images(target, wanted, sampler)
        facts = {**about, "dimo.sampler": json.dumps(protocol, sort_keys=True)}
        picture = enlarge(grid(pixels, COLUMNS), SMALLEST_SIDE)
        save_png(picture, folder / "comparison" / f"{name}.png", facts)


def preview_conditions(teacher: Teacher, count: int) -> list[int] | list[str]:
    """Classes or prompts, from the first on and over again."""
    if isinstance(teacher.conditioner, PromptConditioner):
        prompts = teacher.conditioner.dataset
        return [prompts[index % len(prompts)] for index in range(count)]
    return [index % len(teacher.class_names) for index in range(count)]


def preview_grid(student: Student, wanted: list[int] | list[str]) -> Pixels:
    """A grid of samples, ten in a row."""
    target = Target(student.teacher, student)
    pixels, _ = sample_images(target, wanted, SamplerSpec(seed=PREVIEW_SEED))
    return grid(pixels, columns=10)
