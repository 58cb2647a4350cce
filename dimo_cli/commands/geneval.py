"""GenEval's own layout: write images for the original tool, and read what it found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dimo_cli.commands.frame import command
from dimo_cli.commands.options import LocalDirOption
from dimo_cli.commands.parameters import Fields
from dimo_cli.console.output import out
from dimo_cli.console.progress import tracking
from dimo_cli.errors import counted
from dimo_cli.evaluation.tables import results_view
from dimo_cli.specs.evaluate import EvalSpec
from dimo_cli.specs.flags import Given

FIELDS = Fields(
    only=("target", "sampler"),
    without=("sampler.r_init",),
    said={"target": "Run or student folder, Hub id, or a preset"},
)
EXPORT = "dimo eval geneval-export STUDENT images --metadata evaluation_metadata.jsonl"
app = typer.Typer()


@command(app, "geneval-export", EXPORT)
def export_images(
    asked: Annotated[Given[EvalSpec], FIELDS],
    folder: Annotated[Path, typer.Argument(help="A new folder for the images.")],
    metadata: Annotated[
        Path, typer.Option(help="evaluation_metadata.jsonl of the benchmark (553 prompts).")
    ],
    local_dir: LocalDirOption = None,
) -> None:
    """Draw the benchmark's images into folders that the original tool reads."""
    from dimo_cli.evaluation.evaluate import export_geneval
    from dimo_cli.hub.store import HubStore

    spec = asked.spec({"metrics": ("geneval",), "prompts": f"geneval={metadata}"})
    with tracking(out, "draw") as progress:
        count = export_geneval(spec, folder, HubStore(local_dir, say=out.note), out.note, progress)
    lines = (
        f"{counted(count, 'image')} in {folder}, for the original tool and for `dimo eval geneval`."
    )
    out.result({"folder": str(folder), "images": count}, lines)


@command(app, "geneval-import", "dimo eval geneval-import results.jsonl")
def import_results(
    results: Annotated[Path, typer.Argument(help="The lines that evaluate_images.py wrote.")],
) -> None:
    """Show GenEval's scores as found by the original tool."""
    from dimo_cli.evaluation.result import Evaluation
    from dimo_cli.metrics.geneval_folder import read_results

    scores = read_results(results)
    evaluation = Evaluation(scores, {"target": "results of the original tool"})
    out.result(evaluation.document(), results_view(evaluation, [None] * len(scores), []))
