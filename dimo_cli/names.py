"""What can be named on a command line: for completions and guesses. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path

BUILTIN = Path(__file__).parent / "teachers" / "builtin"
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
            return str(json.loads(manifest.read_text(encoding="utf-8"))["teacher"]["name"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def reward_names() -> list[str]:
    """All rewards."""
    from dimo_cli.rewards.registry import REWARDS

    return list(REWARDS)


def gate_names() -> list[str]:
    """All numbers that a gate of `dimo eval` can be for."""
    from dimo_cli.gates import GATED

    return [name for names in GATED.values() for name in names]


def class_names(teacher: str) -> list[str]:
    """The first name of each of a teacher's classes, in a form that a shell takes for one word."""
    from dimo_cli.teachers import classes, imagenet

    names = classes.DIGITS if teacher == "digits" else imagenet.class_names()
    first = (entry.split(",")[0].lower().replace(" ", "_") for entry in names)
    return list(dict.fromkeys(first))
