"""`dimo arena`: every method on one teacher, under one budget, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dimo_cli.commands.frame import command
from dimo_cli.commands.options import LocalDirOption, SetOption, with_local_dir
from dimo_cli.commands.running import view_titled
from dimo_cli.console.output import out
from dimo_cli.errors import MissingError
from dimo_cli.specs.arena import METHODS, ArenaSpec
from dimo_cli.specs.flags import Given
from dimo_cli.training.stopping import Interrupted

if TYPE_CHECKING:
    from dimo_cli.console.live import View
    from dimo_cli.runs.bouts import Bout

app = typer.Typer()
EXAMPLES = """
dimo arena --teacher digits
dimo arena --teacher digits --methods dimo,redi,di4c --budget 5m --seeds 2 --steps 1,4
dimo arena --teacher digits --budget 70400 --also 5m
dimo arena --teacher shapes --tune --dry-run
"""


@command(app, "arena", EXAMPLES)
def arena(
    asked: Given[ArenaSpec],
    sets: SetOption = None,
    folder: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of all runs; default: runs/arena-TEACHER."),
    ] = None,
    local_dir: LocalDirOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Name the runs and their hours; train none.")
    ] = False,
) -> None:
    """Distill one teacher by every method under one budget, and compare the students."""
    spec = asked.spec()
    place = folder or Path("runs") / f"arena-{spec.name}"
    settings = with_local_dir(sets, local_dir)
    if dry_run:
        show_runs(spec, settings, place)
    else:
        show_arena(spec, settings, place)


def show_runs(spec: ArenaSpec, settings: list[str], place: Path) -> None:
    """The runs, how long they take, and what is refused."""
    table = Table("method", "runs", "steps", "forwards", "hours", box=None, header_style="bold")
    refused: list[Text] = []
    found = {"methods": planned(spec, settings, place, table, refused)}
    if spec.second is not None:
        from dimo_cli.runs.arena import ALSO

        table.add_row(Text(f"also {spec.second.limit.words}:", style="bold"))
        found["also"] = planned(spec.second, settings, place / ALSO, table, refused)
    out.result(found, Group(table, *refused))
    if all("refused" in one for one in found["methods"]):
        raise MissingError(
            "No method of this arena can be used.", "The reasons stand above, for each of them."
        )


def planned(
    spec: ArenaSpec, settings: list[str], place: Path, table: Table, refused: list[Text]
) -> list[dict[str, Any]]:
    """The methods within one budget, each with a row of the table or the reason why not."""
    from dimo_cli.runs.bouts import entrants, hours_of_bouts

    documents: list[dict[str, Any]] = []
    for one in entrants(spec, settings, place):
        title = METHODS[one.method].title
        if one.refusal is not None:
            documents.append({"method": one.method, "refused": one.refusal})
            refused.append(Text(f"{title} cannot be used: {one.refusal}"))
            continue
        hours = hours_of_bouts(one, spec, place)
        first = one.bouts[0]
        runs = [str(bout.folder) for bout in one.all_bouts]
        about = {"steps": first.spec.train.steps, "forwards": first.forwards, "hours": hours}
        documents.append({"method": one.method, "runs": runs, **about})
        told = "not known" if hours is None else f"{hours:.2g}"
        counts = (len(runs), first.spec.train.steps, first.forwards)
        table.add_row(title, *(f"{count:,}" for count in counts), told)
    return documents


def show_arena(spec: ArenaSpec, settings: list[str], place: Path) -> None:
    """Run what is not finished, then show the tables."""
    from dimo_cli.runs.arena import PAGE, TEXT, run_arena
    from dimo_cli.runs.arena_text import parts_of

    try:
        result = run_arena(spec, settings, place, view_of, out.note)
    except Interrupted as stop:
        out.note("Stopped. What is finished stays, and the same command goes on from here.")
        raise typer.Exit(stop.exit_code) from None
    shown: list[RenderableType] = []
    for part in parts_of(result):
        shown += [Text(part.title, style="bold"), *([Text(part.about)] if part.about else [])]
        shown += [table_of(part.head, part.rows), Text("")]
    told = Text(f"Page: {place / PAGE}. The same as text: {place / TEXT}.")
    out.result(result.document(), Group(*shown, told))
    if not result.metrics:
        raise MissingError(
            "No run of this arena has a number.",
            "The reasons stand above; `--dry-run` says which methods can be used.",
        )


def table_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Rows as the terminal has them."""
    table = Table(*head, box=None, header_style="bold")
    for row in rows:
        is_best = any("(best)" in cell for cell in row)
        table.add_row(*map(Text, row), style="good" if is_best else None)
    return table


def view_of(bout: Bout) -> View:
    """How one run of an arena is shown."""
    told = f"{METHODS[bout.method].title}, seed {bout.seed}"
    return view_titled(f"dimo arena, {told}", f"Training {told}")
