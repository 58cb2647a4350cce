"""`dimo eval`: numbers with their protocol, fit for CI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dimo_cli.commands.frame import framed
from dimo_cli.commands.usage import Later, importing
from dimo_cli.console.output import out
from dimo_cli.errors import SpecError

METRICS = {
    "fid": "Frechet distance to real images, in the features of Inception.",
    "is": "Inception Score.",
    "pr": "Precision, recall, density and coverage.",
    "kid": "Kernel distance to real images, unbiased.",
    "fdd": "Frechet distance in the features of DINOv2.",
    "clip": "CLIP score of images and prompts.",
    "hps": "HPSv2.1 on its benchmark of four styles.",
    "image-reward": "Mean ImageReward.",
    "pickscore": "Mean PickScore.",
    "geneval": "Six tasks of prompt following, and overall.",
    "emoji": "Whether pictures of `emoji` show what was asked, by task and overall.",
    "all": "Everything that suits the target.",
}
COMMANDS = {
    **{name: Later("metrics", about) for name, about in METRICS.items()},
    "fidelity": Later(
        "fidelity",
        "Squared error between soft images and those of drawn tokens, by softmax temperature.",
    ),
    "geneval-export": Later(
        "geneval", "Draw the benchmark's images into folders that the original tool reads."
    ),
    "geneval-import": Later("geneval", "Show GenEval's scores as found by the original tool."),
    "ref": Later("references", "Statistics of real images, to compare with."),
}
app = typer.Typer(
    cls=importing(COMMANDS),
    no_args_is_help=True,
    help="Measure students, teachers and folders of images.",
)


@app.callback(invoke_without_command=True)
@framed
def side_by_side(
    context: typer.Context,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A B", help="Two results of --json, side by side, if measured alike."),
    ] = None,
) -> None:
    """Measure students, teachers and folders of images."""
    refuse_before_metric(context, compare)
    if compare is None:
        if context.invoked_subcommand is None:
            raise context.fail("Name a metric, or --compare A B. `dimo eval --help` lists them.")
        return
    from dimo_cli.evaluation.comparing import compare_documents

    first, second = compare
    rows, view = compare_documents(first, second)
    out.result({"first": str(first), "second": str(second), "metrics": rows}, view)
    raise typer.Exit


def refuse_before_metric(context: typer.Context, compare: tuple[Path, Path] | None) -> None:
    """Refuse what stands before the name of a metric, which would never hear of it."""
    if (metric := context.invoked_subcommand) is None:
        return
    if compare is not None:
        raise SpecError(
            f"`--compare` measures nothing, and `{metric}` does.",
            f"Write `dimo eval --compare A B`, or `dimo eval {metric} ...`.",
        )
    for is_given, flag in ((out.as_json, "--json"), (out.quiet, "--quiet")):
        if is_given:
            raise SpecError(
                f"`{flag}` is an option of `dimo eval {metric}`, and goes behind it.",
                f"Write `dimo eval {metric} ... {flag}`.",
            )
