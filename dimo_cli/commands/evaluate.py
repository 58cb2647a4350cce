"""`dimo eval`: numbers with their protocol, fit for CI."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dimo_cli.commands import completing, references
from dimo_cli.commands.fidelity import fidelity
from dimo_cli.commands.geneval import export_images, import_results
from dimo_cli.commands.launching import GpusOption, ProcessesOption, asked_for, carry_out
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
    example,
    sampler_flags,
)
from dimo_cli.commands.usage import Commands

if TYPE_CHECKING:
    from dimo_cli.evaluation.result import Evaluation
    from dimo_cli.hub.store import HubStore
    from dimo_cli.specs.evaluate import EvalSpec

app = typer.Typer(no_args_is_help=True, help="Measure students, teachers and folders of images.")
app.add_typer(references.app, name="ref", cls=Commands)

COMMANDS = {
    "fid": (("fid",), "Frechet distance to real images, in the features of Inception."),
    "is": (("is",), "Inception Score."),
    "pr": (("pr",), "Precision, recall, density and coverage."),
    "kid": (("kid",), "Kernel distance to real images, unbiased."),
    "fdd": (("fdd",), "Frechet distance in the features of DINOv2."),
    "clip": (("clip",), "CLIP score of images and prompts."),
    "hps": (("hps",), "HPSv2.1 on its benchmark of four styles."),
    "image-reward": (("image_reward",), "Mean ImageReward."),
    "pickscore": (("pickscore",), "Mean PickScore."),
    "geneval": (("geneval",), "Six tasks of prompt following, and overall."),
    "all": ((), "Everything that suits the target."),
}
# What a metric can be shown with; the others suit the embedded digits.
SHOWN_WITH = {
    "fdd": "runs/maskbit --ref photos",
    "clip": "shapes",
    "hps": "runs/meissonic --prompts hpsv2",
    "image-reward": "shapes",
    "pickscore": "runs/meissonic --prompts prompts.txt",
    "geneval": "shapes",
}
RENAMED = {
    "target": "TARGET",
    "reference": "--ref",
    "neighbors": "--k",
    "temperatures": "--sweep",
    "sampler.method": "--sampler",
}


@app.callback(invoke_without_command=True)
@command
def side_by_side(
    context: typer.Context,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A B", help="Two results of --json, side by side, if measured alike."),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure students, teachers and folders of images."""
    if compare is None:
        if context.invoked_subcommand is None:
            raise context.fail("Name a metric, or --compare A B. `dimo eval --help` lists them.")
        return
    from dimo_cli.console.output import out
    from dimo_cli.evaluation.comparing import compare_documents

    first, second = compare
    rows, view = compare_documents(first, second)
    out.result({"first": str(first), "second": str(second), "metrics": rows}, view)
    raise typer.Exit


def measuring(metrics: tuple[str, ...]) -> Callable[..., None]:
    """The command of some metrics; all of them have the same options."""

    def measure(
        target: Annotated[
            str,
            typer.Argument(
                help="Run or student folder, Hub id, `digits` or `shapes` (built-in students), a "
                "preset with --teacher, or a folder, .zip or .npz of images.",
                autocompletion=completing.targets,
            ),
        ],
        samples: Annotated[
            int | None,
            typer.Option("--samples", "-n", help="Number of images; 5,000 of embedded teachers."),
        ] = None,
        reference: Annotated[
            str | None,
            typer.Option("--ref", help="Real images: statistics (.npz, .pkl), or a folder."),
        ] = None,
        features: Annotated[
            str | None,
            typer.Option(
                help="inception, dinov2, digits or shapes.", autocompletion=completing.features
            ),
        ] = None,
        resize: Annotated[
            str | None,
            typer.Option(
                help="clean, legacy_tensorflow or legacy_pytorch.",
                autocompletion=completing.resizes,
            ),
        ] = None,
        inception: Annotated[
            str | None, typer.Option(help="File of Inception's weights; else cache or download.")
        ] = None,
        neighbors: Annotated[int, typer.Option("--k", help="Neighbors of precision/recall.")] = 3,
        prompts: Annotated[
            str | None,
            typer.Option(help="coco-30k=FILE, mjhq-30k, hpsv2, geneval=FILE, shapes, or a file."),
        ] = None,
        crop: Annotated[
            int | None, typer.Option(help="Center crop and Lanczos to this side (COCO: 256).")
        ] = None,
        maximum: Annotated[
            list[str] | None,
            typer.Option(
                "--max",
                metavar="NAME=VALUE",
                help="Gate: exit 1 if above; repeatable.",
                autocompletion=completing.gates,
            ),
        ] = None,
        minimum: Annotated[
            list[str] | None,
            typer.Option(
                "--min",
                metavar="NAME=VALUE",
                help="Gate: exit 1 if below; repeatable.",
                autocompletion=completing.gates,
            ),
        ] = None,
        save: Annotated[
            str | None, typer.Option("--save-images", help="Keep the images in this folder.")
        ] = None,
        sweep: Annotated[
            str | None,
            typer.Option(metavar="temperature=A..B", help="Try temperatures; best and curve."),
        ] = None,
        plot: Annotated[Path, typer.Option(help="PNG of the curve of --sweep.")] = Path(
            "sweep.png"
        ),
        seed: SeedOption = 20_000,
        teacher: TeacherOption = False,
        method: SamplerOption = "published",
        steps: StepsOption = None,
        guidance: GuidanceOption = None,
        temperature: TemperatureOption = None,
        top_k: TopKOption = 0,
        top_p: TopPOption = 0.0,
        local_dir: LocalDirOption = None,
        no_cache: Annotated[
            bool, typer.Option("--no-cache", help="Measure again what was measured before.")
        ] = False,
        github: Annotated[
            bool, typer.Option("--github", help="Write a step summary and annotations.")
        ] = False,
        gpus: GpusOption = None,
        processes: ProcessesOption = None,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
    ) -> None:
        given = dict(locals())  # every argument by name
        from dimo_cli.evaluation.gates import read_limits
        from dimo_cli.specs.evaluate import EvalSpec
        from dimo_cli.specs.flags import spec_from_flags

        values = {
            "metrics": metrics,
            "target": target,
            "samples": samples,
            "reference": reference,
            "features": features,
            "resize": resize,
            "inception": inception,
            "neighbors": neighbors,
            "prompts": prompts,
            "crop": crop,
            "maximum": read_limits(maximum or (), metrics, "--max"),
            "minimum": read_limits(minimum or (), metrics, "--min"),
            "save_images": save,
            "temperatures": temperatures(sweep),
            "sampler": sampler_flags(given),
        }
        spec = spec_from_flags(EvalSpec, values, RENAMED)
        if carry_out(asked_for(gpus=gpus, processes=processes)):
            return

        from dimo_cli.console.output import out
        from dimo_cli.distributed.ranks import is_first, joined_ranks
        from dimo_cli.evaluation.tables import check_plot
        from dimo_cli.hub.store import HubStore

        if not is_first():
            out.silence()
        check_plot(plot)
        store = HubStore(local_dir, say=out.note)
        with joined_ranks():
            if spec.temperatures:
                show_sweep(spec, store, plot, not no_cache)
            else:
                show(spec, store, not no_cache, github)

    return measure


for _name, (_metrics, _help) in COMMANDS.items():
    _measure = measuring(_metrics)
    _measure.__doc__ = _help
    _shown = f"dimo eval {_name} {SHOWN_WITH.get(_name, 'digits')}"
    app.command(
        _name,
        epilog=example(f"{_shown} --json", f"{_shown} --teacher --steps 8"),
    )(command(_measure))


app.command("fidelity", epilog=example("dimo eval fidelity shapes -n 32"))(fidelity)
app.command(
    "geneval-export",
    epilog=example("dimo eval geneval-export STUDENT images --metadata evaluation_metadata.jsonl"),
)(export_images)
app.command("geneval-import", epilog=example("dimo eval geneval-import results.jsonl"))(
    import_results
)


def temperatures(text: str | None) -> tuple[float, ...]:
    """The temperatures of `temperature=A..B` (whole steps) or `temperature=A,B,C`."""
    from dimo_cli.errors import SpecError

    if text is None:
        return ()
    name, _, values = text.partition("=")
    first, dots, last = values.partition("..")
    try:
        if name != "temperature":
            raise ValueError
        if not dots:
            return tuple(float(value) for value in values.split(","))
        found = tuple(float(first) + step for step in range(int(float(last) - float(first)) + 1))
    except ValueError:
        found = ()
    if not found:
        raise SpecError(
            f"`--sweep {text}` is not understood.",
            "Write `--sweep temperature=1..12` or `--sweep temperature=0.5,1,2`.",
        )
    return found


def measured(spec: EvalSpec, store: HubStore, use_cache: bool) -> Evaluation:
    """An evaluation with a progress bar."""
    from dimo_cli.console.output import out
    from dimo_cli.console.progress import tracking
    from dimo_cli.evaluation.evaluate import evaluate

    with tracking(out, "measure") as progress:
        return evaluate(spec, store, out.note, progress, use_cache)


def show(spec: EvalSpec, store: HubStore, use_cache: bool, github: bool) -> None:
    """Measure, show, and let the gates decide."""
    from dimo_cli.console.output import out
    from dimo_cli.distributed.ranks import is_first
    from dimo_cli.evaluation.gates import check_gates
    from dimo_cli.evaluation.tables import results_view, write_github
    from dimo_cli.metrics.expected import expected_value

    evaluation = measured(spec, store, use_cache)
    gates = check_gates(evaluation.results, spec.maximum, spec.minimum)
    expected = [expected_value(result, evaluation.subject) for result in evaluation.results]
    document = {
        **evaluation.document(),
        "passed": all(gate.passed for gate in gates),
        "gates": [gate.sentence for gate in gates],
        "published": {
            known.metric: {"value": known.value, "source": known.source}
            for known in expected
            if known is not None
        },
    }
    out.result(document, results_view(evaluation, expected, gates))
    if github and is_first():
        for line in write_github(evaluation, gates):
            typer.echo(line, err=True)
    if not document["passed"]:
        for gate in gates:
            if not gate.passed:
                out.note(gate.sentence)
        raise typer.Exit(1)


def show_sweep(spec: EvalSpec, store: HubStore, plot: Path, use_cache: bool) -> None:
    """Measure at every temperature; the papers report the best one of each metric."""
    from rich.table import Table
    from rich.text import Text

    from dimo_cli.console.output import out
    from dimo_cli.evaluation.tables import draw_curve

    rows: list[tuple[float, Evaluation]] = []
    for temperature in spec.temperatures:
        sampler = spec.sampler.model_copy(update={"temperature": temperature})
        one = spec.model_copy(update={"sampler": sampler, "temperatures": ()})
        rows.append((temperature, measured(one, store, use_cache)))
    names = [result.metric for result in rows[0][1].results]
    table = Table("temperature", *names, box=None, header_style="bold")
    best: dict[str, Any] = {}
    for index, name in enumerate(names):
        values = [(evaluation.results[index].value, t) for t, evaluation in rows]
        falls = name.startswith(("fid", "kid", "fdd"))
        value, temperature = min(values) if falls else max(values)
        best[name] = {"value": value, "temperature": temperature}
    for temperature, evaluation in rows:
        cells = [
            Text(
                f"{result.value:.4f}",
                style="bold" if best[result.metric]["temperature"] == temperature else "",
            )
            for result in evaluation.results
        ]
        table.add_row(f"{temperature:g}", *cells)
    draw_curve([(t, e.results[0].value) for t, e in rows], plot, f"{names[0]} by temperature")
    document = {
        "best": best,
        "curve": [{"temperature": t, **e.document()} for t, e in rows],
        "plot": str(plot),
    }
    out.result(document, table)
