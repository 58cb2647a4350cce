"""An arena in tables, as Markdown, and as its page takes it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dimo_cli.cards.markdown import block, words
from dimo_cli.metrics.papers import reported, unreported
from dimo_cli.reporting.arena_page import ArenaPage, ArenaTable
from dimo_cli.runs.arena_table import ArenaResult
from dimo_cli.specs.arena import METHODS, TUNING_SEED

PREVIEW = Path("student", "preview.png")
COSTS = ["method", "KL to teacher", "forwards", "steps", "training", "ms a step"]
MEMORY = "GiB on the card"
GRID = ["method", "rates times", "number", ""]
REFUSALS = ["method", "why it cannot be used"]
PROBLEMS = ["method", "what went wrong"]
PAPERS = ["run", "teacher", "steps", "numbers", "where"]


def page_of(result: ArenaResult) -> ArenaPage:
    """All that the page shows."""
    contenders, steps = result.contenders, result.asked.steps
    curves = {
        metric: {
            one.title: [(k, found.mean) for k in steps if (found := one.number(metric, k))]
            for one in contenders
        }
        for metric in result.metrics
    }
    previews = [(one.title, one.outcomes[0].run / PREVIEW) for one in contenders if one.outcomes]
    commands = [result.command, *commands_of(result)]
    name = result.asked.name
    return ArenaPage(name, result.sentence(), parts_of(result), curves, previews, commands)


def parts_of(result: ArenaResult) -> list[ArenaTable]:
    """The tables that have rows."""
    told = papers(result.asked.methods)
    return [*measured_parts(result), *([told] if told.rows else [])]


def measured_parts(result: ArenaResult) -> list[ArenaTable]:
    """Those of what was measured here."""
    rates = (
        f"Times those of the preset, on seed {TUNING_SEED}, which is not reported; chosen by the "
        "first metric in the fewest steps."
    )
    tables = [
        *within(result),
        *(within(result.second, f", {result.second.asked.limit.words}") if result.second else []),
        table("Learning rates", rates, GRID, result.grid()),
    ]
    return [one for one in tables if one.rows]


def within(result: ArenaResult, budget: str = "") -> list[ArenaTable]:
    """What came of one budget, which headings name if there are two."""
    spread = {1: "Of one seed, without interval.", 2: "Mean and range of two seeds."}
    told = spread.get(result.asked.seeds, "Mean and 95 % interval over seeds, by Student's t.")
    took = (
        "KL in nats per token, where it is logged; time of training, with the drawing of pairs and "
        "without measuring."
    )
    costs = [*COSTS, MEMORY] if result.tells_memory else COSTS
    return [
        table(f"Numbers{budget}", told, result.head, result.rows()),
        table(f"What they took{budget}", took, costs, result.costs()),
        table(f"Refused{budget}", "", REFUSALS, result.refusals()),
        table(f"Without a student{budget}", "", PROBLEMS, result.problems()),
    ]


def papers(methods: Sequence[str]) -> ArenaTable:
    """What papers report of these methods."""
    about = (
        "Of other teachers, with other budgets: to be looked at beside the numbers above, with "
        "which none of them compares."
    )
    if missing := unreported(methods):
        titles = ", ".join(METHODS[method].title for method in missing)
        about += f" None is known for images of: {titles}."
    rows = [one.cells for one in reported(methods)]
    return table("What papers report", about, PAPERS, rows)


def table(title: str, about: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> ArenaTable:
    """A table, which its heading is linked by."""
    return ArenaTable(re.sub(r"[^a-z0-9]+", "-", title.lower()), title, about, head, rows)


def markdown(result: ArenaResult) -> str:
    """The tables and the commands."""
    lines = [f"# Arena of {words(result.asked.name)}", "", result.sentence(), ""]
    lines += [block(result.command, "sh"), ""]
    lines += [line for part in parts_of(result) for line in lines_of(part, "##")]
    commands = commands_of(result)
    if commands:
        lines += ["## One run of each", "", block("\n".join(commands), "sh"), ""]
    return "\n".join(lines)


def commands_of(result: ArenaResult) -> list[str]:
    """The command of one run of each method."""
    return [one.command for one in result.contenders if one.command]


def lines_of(part: ArenaTable, marks: str) -> list[str]:
    """A table under its heading, which begins with these marks."""
    lines = [f"{marks} {part.title}", ""]
    lines += [part.about, ""] if part.about else []
    lines += [f"| {' | '.join(part.head)} |", f"|{' --- |' * len(part.head)}"]
    return [*lines, *map(line_of, part.rows), ""]


def line_of(row: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(words(cell) if cell else '' for cell in row)} |"
