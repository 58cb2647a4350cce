"""What can be named on a command line: for completions and guesses. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from dimo_cli.errors import SpecError
from dimo_cli.files.reading import MOST_DOCUMENT, read_text
from dimo_cli.run_folder.naming import checkpoint_folder, checkpoint_names, newest_facts
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


@dataclass(frozen=True, slots=True)
class AtCheckpoint:
    """`RUN@best`, `RUN@last` or `RUN@step-N`: what a run's student was, or would be, there."""

    run: Path
    checkpoint: str

    def __str__(self) -> str:
        return f"{self.run}@{self.checkpoint}"

    @property
    def folder(self) -> Path:
        """The folder of that checkpoint; refused where there is none."""
        return checkpoint_folder(self.run, self.checkpoint)

    def pinned(self) -> AtCheckpoint:
        """The same checkpoint by its step, which means the same however the run goes on."""
        return AtCheckpoint(self.run, self.folder.name)


def at_checkpoint(name: str) -> AtCheckpoint | None:
    """A name as that of a checkpoint; None where it is not that of one.

    `@` is a part of many names: only behind a folder that holds a run it stands for a checkpoint.
    """
    run, _, checkpoint = name.rpartition("@")
    folder = Path(run).expanduser()
    if not run or Path(name).expanduser().exists() or not (folder / "run.yaml").is_file():
        return None
    return AtCheckpoint(folder, checkpoint)


def pinned(name: str) -> str:
    """A student's name, with the step in place of `best` and `last`."""
    found = at_checkpoint(name)
    return str(found.pinned()) if found else name


def names_at_checkpoints(begun: str) -> list[str]:
    """The checkpoints of a run whose name was written up to the `@` or beyond."""
    run = begun.rpartition("@")[0]
    return [f"{run}@{name}" for name in checkpoint_names(Path(run).expanduser())]


def student_names() -> list[str]:
    """All students that can be named without knowing of others."""
    return [*builtin_students(), *local_students()]


def teacher_of_student(name: str) -> str | None:
    """The teacher that a built-in or local student names; None where that is not known."""
    if found := at_checkpoint(name):
        teacher = newest_facts(found.run).get("teacher")
        return str(teacher["name"]) if isinstance(teacher, dict) and "name" in teacher else None
    folder = BUILTIN / f"{name}-student" if name in builtin_students() else Path(name)
    for manifest in (folder / "dimo.json", folder / "student" / "dimo.json"):
        try:
            return str(json.loads(read_text(manifest, MOST_DOCUMENT))["teacher"]["name"])
        except (OSError, ValueError, KeyError, TypeError, SpecError):
            continue
    return None
