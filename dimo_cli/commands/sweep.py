"""`dimo sweep`: short runs over the values of a setting, and which of them did best."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dimo_cli.commands import completing
from dimo_cli.commands.frame import command
from dimo_cli.commands.options import LocalDirOption, SetOption, with_local_dir
from dimo_cli.commands.running import view_titled
from dimo_cli.console import next_steps
from dimo_cli.console.output import out
from dimo_cli.errors import MissingError
from dimo_cli.specs.metrics import title_of
from dimo_cli.specs.sweep import Sweep, Trial, read_sweep
from dimo_cli.training.stopping import Interrupted

if TYPE_CHECKING:
    from dimo_cli.console.live import View
    from dimo_cli.runs.sweep import SweepResult

app = typer.Typer()
EXAMPLES = """
dimo sweep digits --over student.optimizer.learning_rate=1e-5..1e-3 --steps 300
dimo sweep digits --over train.batch_size=32,64 --over student.optimizer.schedule=constant,cosine
dimo sweep shapes --over student.optimizer.learning_rate=1e-5..1e-3 --points 9 --dry-run
"""


@command(app, "sweep", EXAMPLES)
def sweep(
    preset: Annotated[
        str,
        typer.Argument(
            metavar="PRESET", help="Preset, or a YAML spec.", autocompletion=completing.presets
        ),
    ],
    over: Annotated[
        list[str],
        typer.Option(
            "--over",
            metavar="KEY=VALUES",
            help="A setting and its values: A..B (learning rates, and ranges that span a factor "
            "of 10, by equal factors) or A,B,C; repeatable, then every combination is run.",
        ),
    ],
    steps: Annotated[int, typer.Option(min=1, help="Steps of each run.")] = 300,
    points: Annotated[int, typer.Option(min=2, max=100, help="Values of a range A..B.")] = 5,
    sets: SetOption = None,
    folder: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of all runs; default: runs/sweep-PRESET."),
    ] = None,
    local_dir: LocalDirOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Name the runs; train none.")] = False,
) -> None:
    """Distill for a few steps at several values of a setting, and name the best."""
    place = folder or Path("runs") / f"sweep-{Path(preset).stem}"
    asked = read_sweep(preset, over, points, steps, with_local_dir(sets, local_dir), place)
    if dry_run:
        runs = [{"run": str(one.folder), "settings": dict(one.values)} for one in asked.trials]
        lines = [Text(f"{len(runs)} runs of {steps:,} steps:")]
        out.result({"runs": runs}, Group(*lines, *(Text(f"  {run['run']}") for run in runs)))
        return
    show_sweep(asked, place, preset)


def show_sweep(asked: Sweep, place: Path, preset: str) -> None:
    """Run what is not finished, then show the table and say how to go on."""
    from dimo_cli.runs.sweep import PICTURE, run_sweep, write_result

    try:
        result = run_sweep(asked, lambda index, trial: view_of(asked, index, trial))
    except Interrupted as stop:
        out.note("Stopped. What is finished stays, and the same command goes on from here.")
        raise typer.Exit(stop.exit_code) from None
    write_result(result, place, preset)
    told = Text(f"Picture: {place / PICTURE}")
    out.result(result.document(preset), Group(table_of(result), Text(""), told))
    if result.best is None:
        raise MissingError(
            "No run of this sweep has a number.",
            "Sweep over lower learning rates; each folder has the log of its run.",
        )
    values = ", ".join(f"{path}={value}" for path, value in result.best.trial.values.items())
    out.hint(f"Best: {values}. Continue with {result.next_step(preset)}.")


def view_of(asked: Sweep, index: int, trial: Trial) -> View:
    """How one run of a sweep is shown."""
    told = f"run {index + 1} of {len(asked.trials)}: {trial.folder.name}"
    return view_titled(f"dimo sweep, {told}", f"{told[0].upper()}{told[1:]}")


def table_of(result: SweepResult) -> Table:
    """A row for each run."""
    table = Table(box=None, header_style="bold")
    for name in result.sweep.names.values():
        table.add_column(name, justify="right")
    table.add_column(title_of(result.metric), justify="right")
    table.add_column("alarms")
    table.add_column("run")
    for outcome in result.outcomes:
        is_best = outcome is result.best
        value = "-" if outcome.value is None else f"{outcome.value:.3f}"
        table.add_row(
            *outcome.trial.values.values(),
            value + (" (best)" if is_best else ""),
            ", ".join(outcome.alarms) or "none",
            next_steps.from_here(outcome.trial.folder),
            style="good" if is_best else None,
        )
    return table
