"""`dimo check`: every hash of a folder read again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dimo_cli.commands.frame import command
from dimo_cli.console.output import out
from dimo_cli.console.progress import counting
from dimo_cli.errors import size
from dimo_cli.specs.check import CheckSpec
from dimo_cli.specs.flags import Given

if TYPE_CHECKING:
    from dimo_cli.checking.files import Checked

DAMAGED = 1  # as of a gate that failed
app = typer.Typer()
EXAMPLES = """
dimo check runs/digits
dimo check runs/digits --json
"""


@command(app, "check", EXAMPLES)
def check(asked: Given[CheckSpec]) -> None:
    """Read every hash of a run, student, encoded images or cache again; say what is damaged."""
    from dimo_cli.checking.files import carried_out
    from dimo_cli.checking.folders import what_is_in

    spec = asked.spec()
    found = what_is_in(spec.path)
    done = []
    with counting(out, "check", len(found.checks)) as advance:
        for one in found.checks:
            done.append(carried_out(one))
            advance(1)
    damaged = [one for one in done if one.problem]
    document = {
        "path": spec.path,
        "kind": found.kind,
        "sound": not damaged,
        "files": len(done),
        "bytes": sum(one.bytes for one in done),
        "damaged": [{"file": one.name, "problem": one.problem} for one in damaged],
    }
    out.result(document, checked_view(found.kind, done, damaged))
    if damaged:
        raise typer.Exit(DAMAGED)


def checked_view(kind: str, done: list[Checked], damaged: list[Checked]) -> RenderableType:
    """What is damaged, in a table, and how much was read."""
    read = f"{len(done):,} files, {size(sum(one.bytes for one in done))}"
    if not damaged:
        return Text(f"Nothing is damaged in this {kind}: {read} read.")
    table = Table("file", "problem", box=None, header_style="bold")
    for one in damaged:
        table.add_row(Text(one.name), Text(str(one.problem)))
    return Group(table, Text(f"{len(damaged)} of {read} of this {kind} are damaged."))
