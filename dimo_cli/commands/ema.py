"""`dimo ema`: the student of a run with an average of another length, after the run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dimo_cli.commands.frame import command
from dimo_cli.console import next_steps
from dimo_cli.console.output import out
from dimo_cli.errors import counted
from dimo_cli.specs.averages import AveragesSpec, read_lengths
from dimo_cli.specs.flags import Given
from dimo_cli.specs.metrics import title_of

if TYPE_CHECKING:
    from dimo_cli.console.live import View
    from dimo_cli.runs.averages import Average, Averages

app = typer.Typer()
EXAMPLES = """
dimo ema runs/digits --length 0.15
dimo ema runs/digits --length 0.02..0.25 --measure
dimo ema runs/digits --length 0.05,0.1 --measure -n 5000 --out best
"""


@command(app, "ema", EXAMPLES)
def ema(asked: Given[AveragesSpec]) -> None:
    """Give a run's student an average of another length, out of the snapshots it kept."""
    points = asked.get("points", AveragesSpec.model_fields["points"].default)
    written = asked.get("lengths")
    spec = asked.spec({"lengths": read_lengths(written, points)} if written else None)
    from dimo_cli.runs.averages import make_averages

    view = watching()
    try:
        made = make_averages(spec, view)
    finally:
        view.stop()
    best = made.best
    shown = Group(table_of(made), Text(""), told(made)) if best else told(made)
    out.result(made.document(), shown)
    if best is not None and best.length is None:
        out.hint(f"No length is better than the run's own average: keep `{made.run / 'student'}`.")
    else:
        out.hint(f"Draw with {next_steps.sample(str(where(made)), made.example)}.")


def watching() -> View:
    """How the work is shown."""
    from dimo_cli.console.live import LiveView, PlainView

    if out.quiet or not out.talk.is_terminal:
        return PlainView((lambda line: None) if out.quiet else out.note)
    return LiveView(out.talk, "dimo ema")


def where(made: Averages) -> Path:
    """The last student that was written."""
    return [row.folder for row in made.rows if row.folder is not None][-1]


def told(made: Averages) -> Text:
    """What was written."""
    lines = [
        f"Length {row.length:g}, from {counted(len(made.kept.steps), 'snapshot')} up to step "
        f"{made.kept.steps[-1]:,} (its profile to {row.error or 0:.1%}): saved to {row.folder}"
        for row in made.rows
        if row.folder is not None
    ]
    return Text("\n".join(lines))


def table_of(made: Averages) -> Table:
    """A row for each average."""
    table = Table(box=None, header_style="bold")
    table.add_column("average")
    metric = next(row.measured.metric for row in made.rows if row.measured is not None)
    for title in (title_of(metric), "images", "profile off by"):
        table.add_column(title, justify="right")
    for row in made.rows:
        table.add_row(*cells_of(row, row is made.best), style="good" if row is made.best else None)
    return table


def cells_of(row: Average, is_best: bool) -> tuple[str, ...]:
    """One average, its number and how well the snapshots could make it."""
    name = "the run's own" if row.length is None else f"length {row.length:g}"
    if row.measured is None:
        return name, "-", "-", "-"
    value = f"{row.measured.value:.3f}{' (best)' if is_best else ''}"
    return name, value, f"{row.measured.images:,}", "" if row.error is None else f"{row.error:.1%}"
