"""Errors that a person reads: one sentence of what is wrong, one of what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from dimo_cli.redacting import without_secrets


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


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` was probably meant to be."""
    matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """A hint that names the nearest choice and all of them."""
    choices = list(choices)
    guess = nearest(word, choices)
    allowed = f"Allowed: {', '.join(choices)}."
    return f"Did you mean `{guess}`? {allowed}" if guess else allowed
