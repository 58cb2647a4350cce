"""Commands that a person can paste: the one place where they are put together.

Each is a whole command line that a shell reads as it is meant, from the folder that dimo was
called in, whatever stands in its paths.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path


def command(*words: object) -> str:
    """A command line of dimo, between backticks."""
    return f"`{shlex.join(['dimo', *map(str, words)])}`"


def from_here(path: Path | str) -> str:
    """A path as it is written in this folder: short where it lies below it."""
    path, here = Path(path), Path.cwd()
    text = str(path.relative_to(here) if path.is_relative_to(here) else path)
    return f"./{text}" if text.startswith("-") else text


def resume(
    run: Path, *, is_refinement: bool = False, sets: Iterable[str] = (), more: Iterable[object] = ()
) -> str:
    """The command that continues a run."""
    verb = "refine" if is_refinement else "distill"
    words = [word for setting in sets for word in ("--set", setting)]
    return command(verb, "--resume", from_here(run), *words, *more)


def sample(student: str, prompt: str | None = None, count: int | None = None) -> str:
    """The command that draws with a student; one of a text teacher needs a prompt."""
    told = ["--prompt", prompt] if prompt is not None else []
    number = ["-n", count] if count is not None else []
    return command("sample", "--student", from_here(student), *told, *number)


def report(run: Path) -> str:
    """The command that writes the report of a run."""
    return command("report", from_here(run))
