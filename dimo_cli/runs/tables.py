"""The tables that close a command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from dimo_cli.console import next_steps
from dimo_cli.errors import counted
from dimo_cli.specs.metrics import is_better, title_of

if TYPE_CHECKING:
    from dimo_cli.evaluation.yardstick import Measurement
    from dimo_cli.runs.closing import AtBest


def comparison_table(rows: Sequence[Measurement], at_best: AtBest | None = None) -> Table:
    """The teacher at several step counts against the student, which has the last rows.

    Above these, what the student was at the best checkpoint, where that is not the last one.
    """
    student, best = rows[-1], best_teacher(rows)
    students = students_of(rows)
    table = Table(box=None, header_style="bold")
    table.add_column("sampler")
    titles = ("accuracy",) if student.accuracy is not None else ()
    for title in (student.metric.upper(), *titles, "ms per image", "speed-up"):
        table.add_column(title, justify="right")
    for row in rows[: -len(students)]:
        name = f"teacher, {steps_of(row)}{' (best)' if row is best else ''}"
        table.add_row(*cells_of(name, row, best))
    if at_best is not None:
        name = f"student at step {at_best.step:,}, the best on the way"
        table.add_row(*cells_of(name, at_best.measured, best))
    for row in students:
        table.add_row(*cells_of(f"student, {steps_of(row)}", row, best), style="good")
    return table


def students_of(rows: Sequence[Measurement]) -> list[Measurement]:
    """The rows of the student, the last ones of the closing table: each number of steps has one."""
    network = rows[-1].sampler["network"]
    return [row for row in rows if row.sampler["network"] == network]


def steps_of(row: Measurement) -> str:
    """In how many steps it draws."""
    return counted(row.sampler["steps"], "step")


def cells_of(name: str, row: Measurement, best: Measurement) -> tuple[str, ...]:
    """One sampler in the closing table; its speed is held against the teacher's best."""
    return (
        name + (", cached" if row.cached else ""),
        f"{row.value:.3f}",
        *(() if row.accuracy is None else (f"{row.accuracy:.1%}",)),
        f"{1000 * row.seconds_per_image:.2f}",
        f"{best.seconds_per_image / row.seconds_per_image:.1f}x",
    )


def best_sentence(student: Measurement, at_best: AtBest, run: Path) -> str | None:
    """What to do where the best checkpoint is better by as many images as the table has."""
    again = at_best.measured
    if not is_better(again.metric, again.value, student.value):
        return None
    return (
        f"At step {at_best.step:,} the student was better: {title_of(again.metric)} "
        f"{again.value:.3f} beside {student.value:.3f}, of {again.images:,} images each. It is "
        f"`{next_steps.from_here(run)}@best` wherever a student is named."
    )


def comparison_sentence(rows: Sequence[Measurement]) -> Text:
    """What the table says, in one line."""
    students, best = students_of(rows), best_teacher(rows)
    student = students[-1]
    first = min(rows[: -len(students)], key=lambda row: row.sampler["steps"])
    who = "Student" if len(students) == 1 else f"Student in {steps_of(student)}"
    return Text(
        f"{who} over teacher's best: {beside(student, best)} at "
        f"{best.seconds_per_image / student.seconds_per_image:.1f}x its speed. "
        f"{who} over the teacher at {steps_of(first)}: {beside(student, first)}."
    )


def beside(row: Measurement, other: Measurement) -> str:
    """How a number compares with another one, as a factor where there can be one."""
    factor, title = ratio(row.value, other.value), title_of(row.metric)
    if factor is None:
        return f"{title} {row.value:.3f} beside {other.value:.3f}"
    return f"{factor:.2f}x its {title}"


def best_teacher(rows: Sequence[Measurement]) -> Measurement:
    """The best row of the teacher; the last rows are the student's."""
    best, *others = rows[: -len(students_of(rows))]
    for row in others:
        if is_better(row.metric, row.value, best.value):
            best = row
    return best


def ratio(value: float, other: float) -> float | None:
    """How many times the other a value is; None where that says nothing."""
    return value / other if value >= 0 and other > 0 else None
