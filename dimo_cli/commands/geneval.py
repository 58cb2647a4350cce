"""GenEval's own layout: write images for the original tool, and read what it found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dimo_cli.commands import completing
from dimo_cli.commands.options import (
    GuidanceOption,
    JsonOption,
    LocalDirOption,
    QuietOption,
    SamplerOption,
    SeedOption,
    StepsOption,
    TeacherOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    command,
    sampler_flags,
)


@command
def export_images(
    target: Annotated[
        str,
        typer.Argument(
            help="Run or student folder, Hub id, or a preset.", autocompletion=completing.targets
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="A new folder for the images.")],
    metadata: Annotated[
        Path, typer.Option(help="evaluation_metadata.jsonl of the benchmark (553 prompts).")
    ],
    seed: SeedOption = 20_000,
    teacher: TeacherOption = False,
    method: SamplerOption = "published",
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = 0,
    top_p: TopPOption = 0.0,
    local_dir: LocalDirOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw the benchmark's images into folders that the original tool reads."""
    given = dict(locals())  # every argument by name
    from dimo_cli.console.output import out
    from dimo_cli.console.progress import tracking
    from dimo_cli.evaluation.evaluate import export_geneval
    from dimo_cli.hub.store import HubStore
    from dimo_cli.specs.evaluate import EvalSpec
    from dimo_cli.specs.flags import spec_from_flags

    values = {
        "metrics": ("geneval",),
        "target": target,
        "prompts": f"geneval={metadata}",
        "sampler": sampler_flags(given),
    }
    spec = spec_from_flags(EvalSpec, values, {"sampler.method": "--sampler"})
    with tracking(out, "draw") as progress:
        count = export_geneval(spec, folder, HubStore(local_dir, say=out.note), out.note, progress)
    lines = f"{count:,} images in {folder}, for the original tool and for `dimo eval geneval`."
    out.result({"folder": str(folder), "images": count}, lines)


@command
def import_results(
    results: Annotated[Path, typer.Argument(help="The lines that evaluate_images.py wrote.")],
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show GenEval's scores as found by the original tool."""
    from dimo_cli.console.output import out
    from dimo_cli.evaluation.result import Evaluation
    from dimo_cli.evaluation.tables import results_view
    from dimo_cli.metrics.geneval_folder import read_results

    scores = read_results(results)
    evaluation = Evaluation(scores, {"target": "results of the original tool"})
    out.result(evaluation.document(), results_view(evaluation, [None] * len(scores), []))
