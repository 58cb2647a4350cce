"""Markdown as GitHub reads it: tables, and text that is taken literally."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).parent


def literal(text: str) -> str:
    """Text for a table's cell: only its `code` is markup."""
    parts = text.replace("\n", " ").split("`")
    for index in range(0, len(parts), 2):  # every other part is code
        parts[index] = parts[index].replace("<", "&lt;").replace("*", r"\*")
    return "`".join(parts).replace("|", r"\|")


def code(text: str) -> str:
    """Text as code; nothing where there is none."""
    return f"`{text}`" if text else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; columns without any content are left out."""
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    lines = [
        [head[i] for i in kept],
        ["---"] * len(kept),
        *([row[i] for i in kept] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(literal(cell) for cell in line)} |" for line in lines)


def environment() -> Environment:
    """The templates of pages."""
    found = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, of our own texts
    )
    found.filters |= {"thousands": "{:,}".format}
    return found


def fill(template: str, **values: Any) -> str:
    """A page of a template."""
    text = environment().get_template(template).render(**values)
    return re.sub(r"\n{3,}", "\n\n", text)
