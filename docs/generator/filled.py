"""Pages of measured numbers: the trials' report, and tables in pages that are written by hand.

Between `<!-- filled: NAME -->` and `<!-- end -->` stands what `python -m docs` puts there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

from benchmarks.soft_dimo.__main__ import asked_for
from benchmarks.soft_dimo.report import kept, pictures, report, short_table
from docs.generator.arena_results import in_full, in_short, of_papers
from docs.generator.measured import ROOT
from docs.generator.sampled import digits_table, emoji_table

PLACE = re.compile(r"(<!-- filled: ([^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
PAGES = ("README.md", "examples/results/arena.md")
RESULTS = "examples/results"
"""Below the project."""


def claims() -> str:
    """The claims of both papers that were tried."""
    return short_table(kept(asked_for([]))).strip()


TABLES: Mapping[str, Callable[[], str]] = {
    "digits sampled": digits_table,
    "emoji sampled": emoji_table,
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
    """Every such page and picture by its path below the project."""
    trials = asked_for([])
    drawn = {f"{RESULTS}/{name}": svg for name, svg in pictures(trials).items()}
    by_hand = {name: filled((ROOT / name).read_text(encoding="utf-8")) for name in PAGES}
    return {**by_hand, f"{RESULTS}/soft-dimo.md": report(trials), **drawn}


def stale_pages() -> dict[str, str]:
    """Those that are not up to date, as they should be."""
    return {name: text for name, text in filled_pages().items() if as_written(name) != text}


def as_written(name: str) -> str:
    """What a file has; nothing where there is none."""
    path = ROOT / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def fill_pages() -> list[str]:
    """Bring them up to date; returns those that were not."""
    stale = stale_pages()
    for name, text in stale.items():
        (ROOT / name).write_text(text, encoding="utf-8")
    return list(stale)
