"""Words of prompts that a teacher reads past: found, told, or refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dimo_cli.errors import SpecError
from dimo_cli.teachers.protocol import Teacher

SHOWN = 20  # words in a note at most: a file of prompts may have thousands


def words_left_out(teacher: Teacher, prompts: Sequence[str]) -> tuple[str, ...]:
    """The words of prompts that do not reach the images."""
    words = (word for prompt in prompts for word in teacher.conditioner.left_out(prompt))
    return tuple(dict.fromkeys(words))


def left_out_note(teacher: Teacher, words: Sequence[str]) -> str:
    """What is said of such words."""
    told = ", ".join(f"`{word}`" for word in words[:SHOWN])
    more = f" and {len(words) - SHOWN:,} more words" if len(words) > SHOWN else ""
    return f"`{teacher.name}` leaves out {told}{more}: its images do without."


def tell_left_out(
    teacher: Teacher, prompts: Sequence[str], say: Callable[[str], None], strict: bool = False
) -> tuple[str, ...]:
    """Say which words are left out of any of the prompts, or refuse them; the words."""
    words = words_left_out(teacher, prompts)
    if not words:
        return ()
    note = left_out_note(teacher, words)
    if strict:
        raise SpecError(note, "Say it in other words, without them.")
    say(note)
    return words
