"""The tables that close a command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from dimo_cli.runs.meter import Score


def comparison_table(rows: Sequence[Score]) -> Table:
    """The teacher at several step counts against the one-step student, which is the last row."""
    *teachers, student = rows
    best = min(teachers, key=lambda score: score.value)
    table = Table(box=None, header_style="bold")
    table.add_column("sampler")
    for title in (student.metric.upper(), "accuracy", "ms per image", "speed-up"):
        table.add_column(title, justify="right")
    for row in rows:
        steps = row.sampler["steps"]
        name = "student, 1 step" if row is student else f"teacher, {steps} step{'s' * (steps > 1)}"
        table.add_row(
            name + (" (best)" if row is best else ""),
            f"{row.value:.3f}",
            f"{row.accuracy:.1%}",
            f"{1000 * row.seconds_per_image:.2f}",
            f"{best.seconds_per_image / row.seconds_per_image:.1f}x",
            style="good" if row is student else None,
        )
    return table


def comparison_sentence(rows: Sequence[Score]) -> Text:
    """What the table says, in one line."""
    *teachers, student = rows
    best = min(teachers, key=lambda score: score.value)
    first = min(teachers, key=lambda score: score.sampler["steps"])
    steps = first.sampler["steps"]
    return Text(
        f"Student over teacher's best: {student.value / best.value:.2f}x its FID at "
        f"{best.seconds_per_image / student.seconds_per_image:.1f}x its speed. "
        f"Student over the teacher at {steps} step{'s' * (steps > 1)}: "
        f"{student.value / first.value:.2f}x its FID."
    )
