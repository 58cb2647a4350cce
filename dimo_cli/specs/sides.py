"""What `dimo compare` sets side by side, as it is written on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dimo_cli.errors import SpecError

TEACHER = re.compile(r"^(?:(?P<name>.+)@)?teacher(?::(?P<steps>.*))?$")
STUDENT = re.compile(r"^(?P<name>.+)@steps:(?P<steps>.*)$")
HELP = (
    "Write `TARGET@teacher:16` for a teacher at 16 steps, `teacher:16` for the first one's, or "
    "`TARGET@steps:4` for a student at 4."
)


@dataclass(frozen=True)
class Side:
    """A student or a teacher, at some number of steps."""

    name: str
    """Run folder, student folder, Hub id or preset."""
    is_teacher: bool = False
    steps: int | None = None
    """None: as many as a teacher's authors take, or the most of a student."""


def read_sides(texts: Sequence[str]) -> list[Side]:
    """`TARGET`, `TARGET@teacher[:STEPS]`, or `teacher[:STEPS]` of the first target."""
    if len(texts) < 2:
        raise SpecError("There is nothing to compare: name at least two.", HELP)
    found = [read_side(text) for text in texts]
    names = [side.name for side in found if side.name]
    if not names:
        raise SpecError("It is not said whose teacher is meant.", HELP)
    return [Side(side.name or names[0], side.is_teacher, side.steps) for side in found]


def read_side(text: str) -> Side:
    """One side; its name is empty where it is the teacher of the first target."""
    match = TEACHER.match(text) or STUDENT.match(text)
    if match is None or Path(text).exists():
        return Side(text)
    steps, is_teacher = match["steps"], match.re is TEACHER
    if steps is not None and not (steps.isdecimal() and 1 <= int(steps) <= 4096):
        raise SpecError(f"`{text}`: {steps!r} is not a number of steps from 1 to 4096.", HELP)
    return Side(match["name"] or "", is_teacher, int(steps) if steps else None)
