"""The picture of a published student: of this student, and of nothing that only its maker knows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dimo_cli import __version__
from dimo_cli.files.pictures import open_picture
from dimo_cli.files.png import Pixels, enlarge, save_png
from dimo_cli.files.untrusted import parse_json
from dimo_cli.sampling.previews import condition_names, preview_conditions, preview_grid
from dimo_cli.specs.manifest import PREVIEW
from dimo_cli.students.folder import example_for
from dimo_cli.students.student import LoadOptions, Student
from dimo_cli.teachers.classes import short_name
from dimo_cli.teachers.conditioning import PromptConditioner
from dimo_cli.teachers.protocol import Teacher

PREVIEW_IMAGES, SLOW_PREVIEW_IMAGES = 20, 4


@dataclass(frozen=True)
class Preview:
    """A preview as it is in a folder: its pixels, whom it is of, and what it says to show."""

    pixels: Pixels
    student: str
    conditions: tuple[str, ...] | None
    """None: it does not say so."""


def preview_of(student: Student, folder: Path, workplace: Path, options: LoadOptions) -> Path:
    """The student's own preview, or one drawn anew: where it is missing, of another student, or
    of prompts that were its maker's alone.

    Its texts are written anew in any case: whatever else the file carries stays at home.
    """
    source, target = folder / PREVIEW, workplace / PREVIEW
    found = read_preview(source)
    if found is not None and found.student == student.short_id:
        if is_public(found.conditions, student.teacher):
            about = texts_of(student, found.conditions, student.manifest.dimo_version)
            save_png(found.pixels, target, about)
            return target
        options.say(f"`{source}` shows prompts of your own: a preview of public ones is drawn.")
    else:
        options.say(f"`{source}` does not show this student: a preview is drawn.")
    draw_preview(student, target)
    return target


def draw_preview(student: Student, path: Path) -> None:
    """A grid of samples that everybody may see, and that says which student drew them."""
    wanted = public_conditions(student.teacher)
    about = texts_of(student, condition_names(student.teacher, wanted), __version__)
    save_png(enlarge(preview_grid(student, wanted), 320), path, about)


def texts_of(student: Student, names: Sequence[str] | None, version: str) -> dict[str, str]:
    """What a preview says: which student drew it, and of what."""
    shown = {} if names is None else {"dimo.conditions": json.dumps(list(names))}
    return {"dimo.version": version, **shown, "dimo.student": student.short_id}


def public_conditions(teacher: Teacher) -> list[int] | list[str]:
    """What to draw for everybody: classes, or prompts that the teacher brings along."""
    if isinstance(teacher.conditioner, PromptConditioner) and not teacher.conditioner.dataset:
        return [str(example_for(teacher))] * SLOW_PREVIEW_IMAGES
    return preview_conditions(teacher, PREVIEW_IMAGES)


def is_public(names: Sequence[str] | None, teacher: Teacher) -> bool:
    """Whether everybody knows what a preview shows: classes, or prompts of the teacher's own."""
    if not isinstance(teacher.conditioner, PromptConditioner):
        known = {short_name(name) for name in teacher.class_names}
        return names is None or known.issuperset(names)
    return names is not None and {*teacher.conditioner.dataset, example_for(teacher)} >= set(names)


def read_preview(path: Path) -> Preview | None:
    """The preview in a folder; None where there is none that can be read."""
    try:
        with open_picture(path) as picture:
            told = picture.info.get("dimo.conditions")
            conditions = None if told is None else tuple(map(str, parse_json(told)))
            student = str(picture.info.get("dimo.student"))
            return Preview(np.asarray(picture.convert("RGB")), student, conditions)
    except Exception:  # of whichever decoder: it shows no student
        return None
