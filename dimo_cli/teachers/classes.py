"""From what a person calls a class to its number."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dimo_cli.errors import SpecError, nearest

if TYPE_CHECKING:  # names are completed in the shell before torch is imported
    from dimo_cli.teachers.protocol import Teacher

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NUMBER = re.compile(r"-?[0-9]{1,9}")
SHOWN = 12  # class names listed in an error message at most


def find_class(word: str, teacher: Teacher, asked: str = "--class") -> int:
    """A class by number, WordNet id, or any of its names; `asked` is how it was asked for.

    Underscores stand for spaces, so that a name is one word of a command line.
    """
    names, wanted = teacher.class_names, plain(word)
    if NUMBER.fullmatch(wanted):
        return checked(int(wanted), names, asked)
    if word.strip().lower() in teacher.class_ids:
        return teacher.class_ids.index(word.strip().lower())
    synonyms = [[plain(name) for name in entry.split(",")] for entry in names]
    for found in (
        [number for number, entry in enumerate(synonyms) if ", ".join(entry) == wanted],
        [number for number, entry in enumerate(synonyms) if entry[0] == wanted],
        [number for number, entry in enumerate(synonyms) if wanted in entry],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            meant = "; ".join(f"{number} ({names[number]})" for number in found)
            raise SpecError(f"`{word}` names {len(found)} classes.", f"Say which: {meant}.")
    guess = nearest(wanted, [name for entry in synonyms for name in entry])
    hint = f"Did you mean `{guess}`?" if guess else f"Classes go from 0 to {len(names) - 1}."
    if len(names) <= SHOWN:
        hint += f" By name: {', '.join(names)}."
    raise SpecError(f"There is no class `{word}`.", hint)


def plain(name: str) -> str:
    """A name as it is compared with others."""
    return name.strip().lower().replace("_", " ")


def checked(number: int, names: tuple[str, ...], asked: str) -> int:
    """A class number within the range."""
    if 0 <= number < len(names):
        return number
    by_name = f"By name: {', '.join(names)}." if len(names) <= SHOWN else None
    raise SpecError(
        f"`{asked}` is {number}: classes go from 0 to {len(names) - 1}.",
        by_name or 'Or by name, such as "golden retriever".',
    )


def short_name(entry: str) -> str:
    """The first of a class's names."""
    return entry.split(",")[0]
