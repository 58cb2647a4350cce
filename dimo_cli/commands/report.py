"""`dimo report`: a run, or several over one another, as one HTML page to open and pass on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dimo_cli.commands.frame import command
from dimo_cli.console.output import out
from dimo_cli.errors import SpecError

app = typer.Typer()
TOGETHER = Path("runs.html")
EXAMPLES = """
dimo report runs/digits
dimo report runs/digits runs/digits-2 --out both.html
dimo report tteo --out optimized.html
"""


@command(app, "report", EXAMPLES)
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folder that `dimo distill`, `refine` or `tteo` wrote to; of two to four runs the "
            "curves are laid over one another.",
        ),
    ],
    file: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="HTML file; default: RUN/report.html, of several runs runs.html."
        ),
    ] = None,
) -> None:
    """Write one self-contained HTML page about a run, finished or not, or about several."""
    from dimo_cli.reporting.page import write_comparison, write_report

    target = file or (runs[0] / "report.html" if len(runs) == 1 else TOGETHER)
    if target.suffix.lower() not in (".html", ".htm"):
        raise SpecError(f"`--out` is {target}: it must end in .html.", "A report is one HTML file.")
    if len(runs) == 1:
        write_report(runs[0], target)
    else:
        write_comparison(runs, target)
    size = target.stat().st_size
    out.result(
        {"report": str(target), "bytes": size},
        f"Report written to {target} ({size / 1024:,.0f} KiB). It needs no other file.",
    )
