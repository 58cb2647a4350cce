"""The Typer app: registers commands and imports nothing heavy."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from dimo_cli import __version__
from dimo_cli.commands.usage import Later, importing
from dimo_cli.console.environment import forget_no_width, is_plain
from dimo_cli.console.plain import shown
from dimo_cli.console.streams import lasting_streams
from dimo_cli.redacting import keeping_secrets

COMMANDS = {
    "distill": Later(
        "distill", "Distill a masked diffusion teacher into a one-step student (Di[M]O)."
    ),
    "sweep": Later(
        "sweep", "Distill for a few steps at several values of a setting, and name the best."
    ),
    "arena": Later(
        "arena", "Distill one teacher by every method under one budget, and compare the students."
    ),
    "ema": Later(
        "ema", "Give a run's student an average of another length, out of the snapshots it kept."
    ),
    "refine": Later("refine", "Refine a one-step student with a GAN, with rewards, or with both."),
    "tteo": Later(
        "tteo",
        "Optimize the input of a one-step student for a prompt (TTEO), or take the best of N.",
    ),
    "sample": Later(
        "sample",
        "Draw images: a student in a pass or a few, or `--teacher --steps K` for comparison.",
    ),
    "play": Later(
        "play", "Play with a student in a web page: prompt or class, seed, r_init, teacher, TTEO."
    ),
    "compare": Later(
        "compare",
        "Draw the same classes or prompts, from the same seeds, with students and teachers.",
    ),
    "runs": Later("runs", "List, show and remove runs."),
    "report": Later(
        "report",
        "Write one self-contained HTML page about a run, finished or not, or about several.",
    ),
    "export": Later(
        "export",
        "Write a student as one file that draws by itself, and check it against the student.",
    ),
    "merge": Later(
        "lowrank",
        "Add a student's adapters to its teacher's weights: a plain student that draws the same.",
    ),
    "extract": Later(
        "lowrank",
        "Make adapters of what a student changed of its teacher's weights, and say what is lost.",
    ),
    "push": Later(
        "push",
        "Publish a student on the Hugging Face Hub; a second time only what has changed is sent.",
    ),
    "doctor": Later(
        "doctor", "Check Python, torch, device, bf16, disk, the Hub, login and caches."
    ),
    "check": Later(
        "check",
        "Read every hash of a run, student, encoded images or cache again; say what is damaged.",
    ),
    "eval": Later("evaluate", "Measure students, teachers and folders of images."),
    "data": Later("data", "Encode real images into tokens."),
    "presets": Later("presets", "List, show, compare and copy presets."),
    "spec": Later("spec", "Check spec files and print their schema."),
}

app = typer.Typer(
    name="dimo",
    cls=importing(COMMANDS),
    help="Distill masked diffusion models into one-step image generators.",
    epilog="Start here: dimo distill --preset digits",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    forget_no_width()
    with keeping_secrets(shown), lasting_streams():
        if is_plain(sys.stdout):
            app.rich_markup_mode = None  # help pages without boxes
        app()
