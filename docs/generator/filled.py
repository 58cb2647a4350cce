"""Tables of measured numbers in pages that are written by hand.

Between `<!-- filled: NAME -->` and `<!-- end -->` stands what `python -m docs` puts there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

from benchmarks.soft_dimo.__main__ import asked_for
from benchmarks.soft_dimo.report import kept, short_table
from docs.generator.arena_results import in_full, in_short, of_papers
from docs.generator.measured import ROOT

PLACE = re.compile(r"(<!-- filled: ([^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
PAGES = ("README.md", "examples/results/arena.md")
"""Below the project."""


def claims() -> str:
    """The claims of both papers that were tried."""
    return short_table(kept(asked_for([]))).strip()


TABLES: Mapping[str, Callable[[], str]] = {
    "claims": claims,
    "digits in short": partial(in_short, "digits"),
    "shapes in short": partial(in_short, "shapes"),
    "digits": partial(in_full, "digits"),
    "digits by time": partial(in_full, "digits-by-time"),
    "shapes": partial(in_full, "shapes"),
    "papers": partial(of_papers, "digits", "shapes"),
}


def filled(text: str) -> str:
    """A page with its tables as they are now."""
    return PLACE.sub(lambda place: f"{place[1]}\n{TABLES[place[2]]()}\n\n{place[3]}", text)


def filled_pages() -> dict[str, str]:
    """Every such page by its path below the project."""
    return {name: filled((ROOT / name).read_text(encoding="utf-8")) for name in PAGES}


def fill_pages() -> list[str]:
    """Bring them up to date; returns those that were not."""
    changed = []
    for name, text in filled_pages().items():
        if (ROOT / name).read_text(encoding="utf-8") != text:
            (ROOT / name).write_text(text, encoding="utf-8")
            changed.append(name)
    return changed
