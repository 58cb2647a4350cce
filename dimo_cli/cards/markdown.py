"""Values of manifests, specs and measurements in Markdown: they stay values, whatever they hold.

The file that they come from may be of a stranger, and the page is read by people and by the Hub.
"""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from dimo_cli.console.plain import one_line

# Words that mean nothing to Markdown, HTML or whoever makes links of addresses by itself.
ORDINARY = re.compile(r"[\w .,:;+%()\[\]/=@'×±-]*")
NOT_ORDINARY = re.compile(r"\]\(|//|www\.|\w@|@\w|(?<!\w)__?|__?(?!\w)", re.IGNORECASE)
TICKS = re.compile("`+")


def words(text: object) -> str:
    """A value in running text or in a cell: as it is where it is words alone, else as code."""
    line = one_line(str(text))
    is_ordinary = ORDINARY.fullmatch(line) and not NOT_ORDINARY.search(line)
    return line if is_ordinary else code(line)


def code(text: object) -> str:
    """A value shown letter by letter; a bar would end the cell of a table."""
    line = one_line(str(text)).replace("|", "/")
    ticks = fence(line, 1)
    pad = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def block(text: str, language: str) -> str:
    """Lines shown letter by letter."""
    ticks = fence(text, 3)
    return f"{ticks}{language}\n{text}\n{ticks}"


def fence(text: str, least: int) -> str:
    """More backticks than there are in a row within a text."""
    longest = max((len(run) for run in TICKS.findall(text)), default=0)
    return "`" * max(least, longest + 1)


def link(label: str, address: str) -> str:
    """A label that leads to an address of the web; the label alone where it is none."""
    parts = urlsplit(address)
    if parts.scheme not in ("https", "http") or not parts.netloc:
        return label
    return f"[{label}]({quote(address, safe=':/?#@!$&*+,;=%~')})"
