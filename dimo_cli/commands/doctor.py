"""`dimo doctor`: is this machine ready, and if not, what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dimo_cli.commands.options import JsonOption, command, example

EXAMPLES = example("dimo doctor", "dimo doctor --json")


@command
def doctor(
    folder: Annotated[Path, typer.Option("--folder", help="Where runs would be written.")] = Path(),
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not try to reach the Hub.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check Python, torch, device, bf16, disk, the Hub, login and caches."""
    from rich.table import Table
    from rich.text import Text

    from dimo_cli.console.output import out
    from dimo_cli.health import run_checks

    out.note("Checking ...")
    checks = run_checks(folder, offline)
    table = Table(box=None, header_style="bold")
    for title in ("check", "state", "found", "what to do"):
        table.add_column(title, overflow="fold")
    styles = {"ok": "good", "note": "hint", "problem": "bad"}
    for check in checks:
        table.add_row(
            check.name,
            Text(check.state, style=styles[check.state]),
            Text(check.found),
            Text(check.advice),
        )
    problems = [check.name for check in checks if check.state == "problem"]
    document = {
        "ready": not problems,
        "checks": [
            {"name": c.name, "state": c.state, "found": c.found, "advice": c.advice} for c in checks
        ],
    }
    out.result(document, table)
    if problems:
        out.note(f"Not ready: {', '.join(problems)}.")
        raise typer.Exit(3)
