"""Errors that a person reads: one sentence of what is wrong, one of what to do next."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable

from dimo_cli.redacting import without_secrets

# What torch, its threads, the loader of libraries and safetensors say where there is no memory.
NO_MEMORY = re.compile(
    r"failed to map segment|annot allocate memory(?! in static TLS)|can't allocate memory|"
    r"not enough memory|std::bad_alloc|can't start new thread"
)


class DimoError(Exception):
    """A mistake or a lack that the user can mend.

    `message` says what is wrong and `hint` what to do next; `exit_code` is that of the command.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str | None = None) -> None:
        message, hint = without_secrets(message), without_secrets(hint) if hint else hint
        super().__init__(message)
        if hint:
            self.add_note(hint)  # what a traceback shows in Python
        self.message = message
        self.hint = hint


class SpecError(DimoError):
    """The run spec, a flag or an argument is wrong."""


class MissingError(DimoError):
    """Something needed is not there: weights, network, login, a folder, disk space."""

    exit_code = 3


class NotThere(MissingError):
    """This one file is not to be had; an alternative may be."""


class NotFinite(MissingError):
    """A network has weights, or computes images, that are NaN or infinite."""


class DivergedError(DimoError):
    """Training could not be recovered."""

    exit_code = 4


def lacks_memory(error: Exception) -> bool:
    """Whether a machine, or a limit on this process, gave no more memory: nothing is damaged."""
    is_refused = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    return is_refused or NO_MEMORY.search(str(error)) is not None


def counted(count: int, noun: str) -> str:
    """A number of things in words: `1 image`, `5,000 images`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size(count: float) -> str:
    """Bytes in words."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


# How alike two words have to be that one is taken for a slip of the other; short ones share a few
# letters by chance.
ALIKE, ALIKE_IF_SHORT, SHORT = 0.75, 0.8, 4


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` was probably meant to be: a slip, a part of it, or one with more."""
    choices = list(choices)
    matches = difflib.get_close_matches(word, choices, n=1, cutoff=ALIKE)
    if matches and similarity(word, matches[0]) >= needed(word, matches[0]):
        return matches[0]
    akin = [choice for choice in choices if is_akin(word, choice)]
    return max(akin, key=lambda choice: similarity(word, choice), default=None)


def is_akin(word: str, choice: str) -> bool:
    """Whether one begins with the other or holds it whole, or two letters changed places."""
    shorter, longer = sorted((word, choice), key=len)
    if len(shorter) >= SHORT:
        return shorter in longer
    return len(word) == SHORT - 1 and (choice.startswith(word) or sorted(word) == sorted(choice))


def similarity(word: str, choice: str) -> float:
    """From 0 to 1, as difflib compares a choice with a word."""
    return difflib.SequenceMatcher(None, choice, word).ratio()


def needed(word: str, choice: str) -> float:
    """How alike these two have to be."""
    return ALIKE_IF_SHORT if min(len(word), len(choice)) < SHORT else ALIKE


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """A hint that names the nearest choice and all of them."""
    choices = list(choices)
    guess = nearest(word, choices)
    allowed = f"Allowed: {', '.join(choices)}."
    return f"Did you mean `{guess}`? {allowed}" if guess else allowed
