"""`dimo runs`: how runs stand, and away with those that nobody needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from dimo_cli.commands import completing
from dimo_cli.commands.frame import command
from dimo_cli.commands.usage import Commands
from dimo_cli.console import next_steps
from dimo_cli.console.output import out
from dimo_cli.errors import SpecError, counted, size
from dimo_cli.run_folder.naming import checkpoint_names, read_json
from dimo_cli.specs.flags import Given
from dimo_cli.specs.metrics import TITLES
from dimo_cli.specs.runs import ListSpec, RemoveSpec

if TYPE_CHECKING:
    from dimo_cli.run_folder.listing import RunFacts

app = typer.Typer(cls=Commands, no_args_is_help=True, help="List, show and remove runs.")
STYLES = {"running": "hint", "finished": "good", "diverged": "bad"}
AGES = (("d", 86_400), ("h", 3600), ("min", 60))


@command(app, "list", "dimo runs list", "dimo runs list experiments --json")
def list_runs(asked: Given[ListSpec]) -> None:
    """List the runs in a folder: state, step, metric, size and age."""
    from dimo_cli.run_folder.listing import facts_of_run, find_runs

    folder = Path(asked.spec().folder).expanduser()
    found = [facts_of_run(run) for run in find_runs(folder)]
    document = {"folder": str(folder), "runs": [facts.as_dict() for facts in found]}
    nothing = Text(f"There are no runs in `{folder}`.")
    out.result(document, runs_table(found) if found else nothing)


@command(app, "show", "dimo runs show runs/digits", "dimo runs show runs/digits --json")
def show(
    run: Annotated[
        Path, typer.Argument(help="Folder of a run.", autocompletion=completing.students)
    ],
) -> None:
    """Show how a run stands, and what to do with it next."""
    from dimo_cli.run_folder.listing import facts_of_run
    from dimo_cli.run_folder.state import DIVERGED

    facts = facts_of_run(run)
    more = {"checkpoints": checkpoint_names(run)}
    if facts.state == "diverged":
        more["reason"] = read_json(run / DIVERGED).get("reason", "not recorded")
    out.result({**facts.as_dict(), **more}, facts_view(facts, more))
    if facts.state == "interrupted":
        again = next_steps.resume(run, is_refinement=facts.method == "refine")
        out.hint(f"Continue it with {again}.")
    elif facts.state == "finished":
        out.hint(f"See its curves and images with {next_steps.report(run)}.")


@command(app, "rm", "dimo runs rm runs/digits", "dimo runs rm runs/digits runs/digits-2 --yes")
def remove(asked: Given[RemoveSpec]) -> None:
    """Delete run folders; one that is running, or no run folder, is refused."""
    from dimo_cli.run_folder.contents import foreign_files
    from dimo_cli.run_folder.listing import facts_of_run
    from dimo_cli.run_folder.removing import check_removable, remove_run

    spec = asked.spec()
    named = [Path(text).expanduser() for text in spec.runs]
    runs = list({run.resolve(): run for run in named}.values())  # each once, however it is named
    for run in runs:
        check_removable(run)  # all of them before any is gone
    freed = sum(facts_of_run(run).bytes for run in runs)
    foreign = {run: count for run in runs if (count := foreign_files(run))}
    for run, count in foreign.items():
        out.note(
            f"In `{run}`: {counted(count, 'file')} not written by dimo, to be deleted as well."
        )
    if not spec.yes:
        ask(runs, freed)
    for run in runs:
        remove_run(run)
    document = {
        "removed": [str(run) for run in runs],
        "bytes": freed,
        "foreign_files": sum(foreign.values()),
    }
    out.result(document, Text(f"Removed {counted(len(runs), 'run')}, {size(freed)}."))


def ask(runs: list[Path], freed: int) -> None:
    """Let a person decide; where nobody can be asked, nothing is deleted."""
    names = ", ".join(f"`{run}`" for run in runs)
    if out.as_json or not sys.stdin.isatty():
        raise SpecError(f"Nobody can be asked whether to delete {names}.", "Add `--yes`.")
    out.say(f"This deletes {names}: {size(freed)}, with all checkpoints and students in it.")
    if not typer.confirm("Delete?", err=True):
        out.note("Nothing was deleted.")
        raise typer.Exit


def runs_table(found: list[RunFacts]) -> Table:
    """A row for each run."""
    table = Table(box=None, header_style="bold")
    table.add_column("run", overflow="fold")  # never cut short: it is to be typed again
    for title in ("state", "teacher"):
        table.add_column(title)
    for title in ("step", "metric", "size", "age"):
        table.add_column(title, justify="right")
    for facts in found:
        cells = (step_words(facts), metric_words(facts), size(facts.bytes), age(facts))
        state = Text(facts.state, style=STYLES.get(facts.state, ""))
        table.add_row(Text(facts.path), state, Text(facts.teacher or "?"), *cells)
    return table


def facts_view(facts: RunFacts, more: dict[str, Any]) -> RenderableType:
    """A run as names and values."""
    table = Table.grid(padding=(0, 2))
    rows = {
        "run": facts.path,
        "state": facts.state,
        "made by": f"dimo {facts.method}",
        "teacher": facts.teacher or "?",
        "step": step_words(facts),
        "metric": metric_words(facts),
        "size": size(facts.bytes),
        "last written": f"{age(facts)} ago",
        "checkpoints": ", ".join(more["checkpoints"]) or "none",
    }
    if "reason" in more:
        rows["diverged"] = str(more["reason"])
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def step_words(facts: RunFacts) -> str:
    """How far a run is."""
    return f"{facts.step:,}" + (f" / {facts.steps:,}" if facts.steps is not None else "")


def metric_words(facts: RunFacts) -> str:
    """How good it is."""
    if facts.metric is None or facts.value is None:
        return "not measured"
    return f"{TITLES[facts.metric]} {facts.value:.3f}"


def age(facts: RunFacts) -> str:
    """How long ago something was written."""
    for unit, seconds in AGES:
        if facts.seconds_since >= seconds:
            return f"{facts.seconds_since / seconds:.0f} {unit}"
    return f"{facts.seconds_since:.0f} s"
