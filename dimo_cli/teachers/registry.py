"""Which teachers there are. The only place that maps a name to a family's file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dimo_cli.errors import SpecError, did_you_mean
from dimo_cli.teachers import digits
from dimo_cli.teachers.protocol import Teacher


@dataclass(frozen=True, slots=True)
class Entry:
    """How to get a teacher, with or without its weights."""

    load: Callable[[], Teacher]
    summary: str


TEACHERS: dict[str, Entry] = {
    "digits": Entry(digits.load_teacher, "embedded, 8x8 handwritten digits, 0.2M parameters"),
}


def load_teacher(name: str) -> Teacher:
    """Load a teacher by name."""
    if name not in TEACHERS:
        raise SpecError(
            f"`teacher.name` is {name!r}, which is not a known teacher.",
            did_you_mean(name, TEACHERS),
        )
    return TEACHERS[name].load()
