"""`dimo report`: a run as one HTML page to open, show and pass on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dimo_cli.commands.frame import command
from dimo_cli.console.output import out
from dimo_cli.errors import SpecError

app = typer.Typer()
EXAMPLES = """
dimo report runs/digits
dimo report tteo --out optimized.html
"""


@command(app, "report", EXAMPLES)
def report(
    run: Annotated[
        Path, typer.Argument(help="Folder that `dimo distill`, `refine` or `tteo` wrote to.")
    ],
    file: Annotated[
        Path | None, typer.Option("--out", "-o", help="HTML file; default: RUN/report.html.")
    ] = None,
) -> None:
    """Write one self-contained HTML page about a run, finished or not."""
    from dimo_cli.reporting.page import write_report

    target = file or run / "report.html"
    if target.suffix.lower() not in (".html", ".htm"):
        raise SpecError(f"`--out` is {target}: it must end in .html.", "A report is one HTML file.")
    write_report(run, target)
    size = target.stat().st_size
    out.result(
        {"report": str(target), "bytes": size},
        f"Report written to {target} ({size / 1024:,.0f} KiB). It needs no other file.",
    )
