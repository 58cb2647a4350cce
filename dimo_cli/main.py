"""The Typer app: registers commands and imports nothing heavy."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from dimo_cli import __version__
from dimo_cli.commands import (
    compare,
    data,
    distill,
    doctor,
    evaluate,
    export,
    play,
    presets,
    push,
    refine,
    report,
    sample,
    spec,
    tteo,
)
from dimo_cli.commands.usage import Commands
from dimo_cli.console.environment import is_plain
from dimo_cli.redacting import keeping_secrets

app = typer.Typer(
    name="dimo",
    cls=Commands,
    help="Distill masked diffusion models into one-step image generators.",
    epilog="Start here: dimo distill --preset digits",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("distill", epilog=distill.EXAMPLES)(distill.distill)
app.command("refine", epilog=refine.EXAMPLES)(refine.refine)
app.command("tteo", epilog=tteo.EXAMPLES)(tteo.tteo)
app.command("sample", epilog=sample.EXAMPLES)(sample.sample)
app.command("play", epilog=play.EXAMPLES)(play.play)
app.command("compare", epilog=compare.EXAMPLES)(compare.compare)
app.command("report", epilog=report.EXAMPLES)(report.report)
app.add_typer(evaluate.app, name="eval", cls=Commands)
app.add_typer(data.app, name="data", cls=Commands)
app.add_typer(presets.app, name="presets", cls=Commands)
app.add_typer(spec.app, name="spec", cls=Commands)
app.command("export", epilog=export.EXAMPLES)(export.export)
app.command("push", epilog=push.EXAMPLES)(push.push)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)


def show_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        typer.echo(f"dimo {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Distill masked diffusion models into one-step image generators."""


def main() -> None:
    """Entry point of the `dimo` script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode still gets the rest
    if is_plain(sys.stdout):
        app.rich_markup_mode = None  # help pages without boxes
    with keeping_secrets():
        app()
