"""What can be named on a command line: for completions and guesses. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path

from dimo_cli.errors import SpecError
from dimo_cli.files.reading import MOST_DOCUMENT, read_text
from dimo_cli.teachers.builtin import builtin_path

BUILTIN = Path(builtin_path(""))
RUNS = "runs"


def builtin_students() -> list[str]:
    """Students that ship in the package, by their teachers' names."""
    return sorted(folder.name.removesuffix("-student") for folder in BUILTIN.glob("*-student"))


def local_students(place: Path | None = None) -> list[str]:
    """Run and student folders here and in `runs/`, as they are written on a command line."""
    here = place or Path()
    folders = [*children(here), *children(here / RUNS)]
    return [folder.relative_to(here).as_posix() for folder in folders if is_student(folder)]


def children(folder: Path) -> list[Path]:
    """What is in a folder, sorted; nothing where it cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def is_student(folder: Path) -> bool:
    """Whether a folder is one that a command takes for a student."""
    marks = ("dimo.json", "student/dimo.json", "run.yaml")
    return any((folder / mark).is_file() for mark in marks)


def student_names() -> list[str]:
    """All students that can be named without knowing of others."""
    return [*builtin_students(), *local_students()]


def teacher_of_student(name: str) -> str | None:
    """The teacher that a built-in or local student names; None where that is not known."""
    folder = BUILTIN / f"{name}-student" if name in builtin_students() else Path(name)
    for manifest in (folder / "dimo.json", folder / "student" / "dimo.json"):
        try:
            return str(json.loads(read_text(manifest, MOST_DOCUMENT))["teacher"]["name"])
        except (OSError, ValueError, KeyError, TypeError, SpecError):
            continue
    return None
