"""Texts of others as text: no part of them is an order to a terminal or to a runner of CI.

A name in a manifest, a file or an answer of the Hub may clear the screen, fill the clipboard, turn
the direction of writing, or speak a runner's workflow commands. `shown` stands before all that is
printed; the console of `console/output` puts everything through it.
"""

from __future__ import annotations

import re

from dimo_cli.redacting import without_secrets

REPLACEMENT = "\ufffd"
# Control characters but newline and tab, what turns the direction of writing or has no width, and
# halves of characters. Joiners stay: several scripts cannot do without them.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
# A runner of CI obeys `::` at the start of a line, however far it is indented, and `##[` or
# `##vso[` anywhere.
AT_START = re.compile(r"^([^\S\n]*):(?=:)", re.MULTILINE)
ANYWHERE = re.compile(r"##(?=\w*\[)")
NOT_INDENTED = re.compile(r"\n(?!  )")
BREAKS = re.compile(r"[\n\t]+")


def visible(text: str) -> str:
    """The same text with a mark in place of each character that acts instead of being seen."""
    return UNSEEN.sub(REPLACEMENT, text.replace("\r\n", "\n"))


def plain(text: str) -> str:
    """The same text as neither a terminal nor a runner of CI takes any of it for an order."""
    return ANYWHERE.sub("# #", AT_START.sub(r"\1: ", visible(text)))


def shown(text: str) -> str:
    """A text as it may be printed: without secrets, and without orders."""
    return plain(without_secrets(text))


def indented(text: str) -> str:
    """A message whose further lines are seen to be of the message, whatever they claim."""
    return NOT_INDENTED.sub("\n  ", text)


def one_line(text: str) -> str:
    """A text for one row of a table or one entry of a list."""
    return BREAKS.sub(" ", visible(text)).strip()


def in_json(text: str) -> str:
    """A JSON document that means the same, and whose strings speak to no runner of CI."""
    return ANYWHERE.sub(r"\\u0023#", text)
