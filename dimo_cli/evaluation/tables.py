"""Evaluations as people read them: a table, a comparison, a curve, a summary for CI."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dimo_cli.cards.markdown import code, words
from dimo_cli.console.plain import one_line
from dimo_cli.redacting import without_secrets

if TYPE_CHECKING:
    from dimo_cli.evaluation.gates import Gate
    from dimo_cli.evaluation.result import Evaluation
    from dimo_cli.metrics.expected import Expected

HASH = re.compile("[0-9a-f]{40,}")
SPREADS = ("std", "standard_error")
WARNINGS = ("warning", "few_images")


def flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested facts as lines."""
    lines: dict[str, str] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping):
            lines |= flat(value, f"{prefix}{key}.")
        elif value not in (None, ""):
            text = one_line(str(value))
            lines[one_line(f"{prefix}{key}")] = text[:16] if HASH.fullmatch(text) else text
    return lines


def results_view(
    evaluation: Evaluation, expected: Sequence[Expected | None], gates: Sequence[Gate]
) -> RenderableType:
    """The numbers, and below them all that they depend on."""
    table = numbers_table(evaluation, expected)
    facts = Table.grid(padding=(0, 2))
    shared = common_facts([result.protocol for result in evaluation.results])
    for key, text in {**flat(evaluation.subject), **flat(shared)}.items():
        facts.add_row(Text(key, style="dim"), Text(text))
    for result in evaluation.results:
        own = {key: value for key, value in result.protocol.items() if key not in shared}
        if own:
            line = ", ".join(f"{key} {text}" for key, text in flat(own).items())
            facts.add_row(Text(result.metric, style="dim"), Text(line))
    warnings = [
        result.details[key]
        for result in evaluation.results
        for key in WARNINGS
        if key in result.details
    ]
    said = dict.fromkeys([*evaluation.notes, *warnings])
    notes = [Text(f"Note: {note}", style="dim") for note in said]
    if evaluation.cached:
        notes.append(Text("Measured before: nothing has changed since.", style="dim"))
    return Group(table, Text(""), facts, *notes, *(Text(gate.sentence) for gate in gates))


def numbers_table(evaluation: Evaluation, expected: Sequence[Expected | None]) -> Table:
    """A row for each number, with the columns that any of them fills."""
    spreads = [
        next((f"± {r.details[key]:.4f}" for key in SPREADS if key in r.details), "")
        for r in evaluation.results
    ]
    published = [
        "" if known is None else known.compare(result.value)
        for result, known in zip(evaluation.results, expected, strict=True)
    ]
    filled = {
        title: cells
        for title, cells in (("spread", spreads), ("published", published))
        if any(cells)
    }
    table = Table(box=None, header_style="bold")
    table.add_column("metric")
    for title in ("value", *filled):
        table.add_column(title, justify="right")
    for row, result in enumerate(evaluation.results):
        name = label(result.metric, evaluation.subject)
        value = Text(f"{result.value:.4f}", style="bold")
        table.add_row(name, value, *(cells[row] for cells in filled.values()))
    return table


def label(metric: str, subject: Mapping[str, Any]) -> str:
    """A metric's name, with what was done to the images before they were measured."""
    tteo = subject.get("tteo")
    return metric if tteo is None else one_line(f"{metric}, TTEO {tteo['budget']}")


def short_view(evaluation: Evaluation, gates: Sequence[Gate]) -> RenderableType:
    """A line for each number with all that it depends on."""
    lines = []
    for result in evaluation.results:
        facts = {**flat(evaluation.subject), **flat(result.protocol)}
        told = ", ".join(f"{key} {text}" for key, text in facts.items())
        name = label(result.metric, evaluation.subject)
        lines.append(Text(f"{name} {result.value:.4f} ({told})"))
    return Group(*lines, *(Text(gate.sentence) for gate in gates))


def common_facts(protocols: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is the same in all protocols."""
    first, *others = protocols
    return {
        key: value
        for key, value in first.items()
        if all(key in other and other[key] == value for other in others)
    }


def comparison_view(rows: Sequence[Mapping[str, Any]], names: tuple[str, str]) -> Table:
    """Numbers under the same protocols, side by side."""
    table = Table(box=None, header_style="bold")
    table.add_column("metric")
    for title in (*map(one_line, names), "difference"):
        table.add_column(title, justify="right")
    for row in rows:
        numbers = f"{row['first']:.4f}", f"{row['second']:.4f}", f"{row['difference']:+.4f}"
        table.add_row(one_line(row["metric"]), *numbers)
    return table


def write_github(evaluation: Evaluation, gates: Sequence[Gate]) -> list[str]:
    """Add a table to the step's summary; returns the annotations to print."""
    lines = ["| metric | value | gate |", "|---|---|---|"]
    by_metric = {gate.metric: gate for gate in gates}
    for result in evaluation.results:
        gate = by_metric.get(result.metric)
        told = "" if gate is None else ("passed" if gate.passed else "**failed**")
        name = label(result.metric, evaluation.subject)
        lines.append(f"| {words(name)} | {result.value:.4f} | {told} |")
    facts = flat(evaluation.subject)
    lines += ["", *(f"- {words(key)}: {code(value)}" for key, value in facts.items()), ""]
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(without_secrets("\n".join(lines) + "\n"))
    kinds = {True: "notice", False: "error"}
    return [
        f"::{kinds[gate.passed]} title=dimo eval::{one_line(gate.sentence).replace('%', '%25')}"
        for gate in gates
    ]
