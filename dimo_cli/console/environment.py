"""What stands at the other end, as far as the environment tells. Imports nothing heavy."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Literal, TextIO, get_args

from dimo_cli.errors import SpecError, did_you_mean

ImageProtocol = Literal["kitty", "iterm", "blocks", "none"]
IMAGES = "DIMO_IMAGES"
KITTY_TERMS, KITTY_PROGRAMS = ("xterm-kitty", "xterm-ghostty"), ("ghostty",)
ITERM_PROGRAMS = ("iTerm.app", "WezTerm", "mintty")


def is_plain(stream: TextIO) -> bool:
    """Whether a stream gets text alone: no colors, no control codes, no boxes, no pictures."""
    asked_for = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") in ("dumb", "unknown")
    return asked_for or not stream.isatty()


def forget_no_width() -> None:
    """Take COLUMNS as not set where it is no width, in which nothing would be seen."""
    columns = os.environ.get("COLUMNS", "1")
    if re.fullmatch(r"0*[1-9][0-9]{0,5}", columns) is None:
        del os.environ["COLUMNS"]


def image_protocol(environment: Mapping[str, str] | None = None) -> ImageProtocol:
    """How this terminal takes pictures: what `DIMO_IMAGES` says, else what it is known for."""
    variables = os.environ if environment is None else environment
    asked = variables.get(IMAGES) or "auto"
    for choice in get_args(ImageProtocol):
        if asked == choice:
            return choice
    if asked != "auto":
        known = ("auto", *get_args(ImageProtocol))
        raise SpecError(
            f"The environment variable {IMAGES} is {asked!r}.", did_you_mean(asked, known)
        )
    term, program = variables.get("TERM", ""), variables.get("TERM_PROGRAM", "")
    if "TMUX" in variables or term.startswith(("tmux", "screen")):
        return "blocks"  # a multiplexer keeps image sequences from the terminal
    if "KITTY_WINDOW_ID" in variables or term in KITTY_TERMS or program in KITTY_PROGRAMS:
        return "kitty"
    if program in ITERM_PROGRAMS or variables.get("LC_TERMINAL") == "iTerm2":
        return "iterm"
    return "blocks"
