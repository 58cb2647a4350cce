"""`dimo eval`: numbers with their protocol, fit for CI."""

from __future__ import annotations

from typing import Annotated

import typer

from dimo_cli.commands.options import (
    GuidanceOption,
    JsonOption,
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
)

app = typer.Typer(no_args_is_help=True, help="Measure students and teachers.")


@app.callback()
def metrics() -> None:
    """Measure students and teachers."""


@app.command(
    "fid",
    epilog=example(
        "dimo eval fid runs/digits",
        "dimo eval fid runs/digits --json --max 1.0     (exit 1 if above)",
        "dimo eval fid runs/digits --teacher --steps 8",
    ),
)
@command
def fid(
    target: Annotated[
        str, typer.Argument(help="Run folder or student folder; `digits`: the built-in student.")
    ],
    samples: Annotated[int, typer.Option("--samples", "-n", help="Number of images.")] = 5000,
    maximum: Annotated[
        float | None, typer.Option("--max", help="Gate: exit 1 if the FID is above.")
    ] = None,
    seed: SeedOption = 20_000,
    teacher: TeacherOption = False,
    method: SamplerOption = "published",
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = 0,
    top_p: TopPOption = 0.0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Frechet distance of generated images to the teacher's training data."""
    from dimo_cli.console.output import out
    from dimo_cli.specs.flags import spec_from_flags
    from dimo_cli.specs.sample import EvalSpec

    values = {
        "target": target,
        "samples": samples,
        "maximum": maximum,
        "sampler": {
            "teacher": teacher,
            "seed": seed,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "method": method,
            "steps": steps,
            "guidance": guidance,
        },
    }
    spec = spec_from_flags(
        EvalSpec, values, {"maximum": "--max", "target": "TARGET", "sampler.method": "--sampler"}
    )

    from dimo_cli.console.progress import counting
    from dimo_cli.console.tables import score_table
    from dimo_cli.metrics.fid import FidMeter  # torch starts here
    from dimo_cli.published_students import open_student
    from dimo_cli.samplers import Target, build_sampler
    from dimo_cli.students import LoadOptions

    options = LoadOptions(with_teacher=spec.sampler.teacher, say=out.note)
    student = open_student(spec.target, options)
    sampler, protocol = build_sampler(Target(student.teacher, student), spec.sampler)
    meter = FidMeter(student.teacher)
    with counting(out, "sample and measure", spec.samples) as advance:
        score = meter.measure(
            sampler,
            images=spec.samples,
            seed=spec.sampler.seed,
            protocol=protocol,
            progress=advance,
        )
    passed = spec.maximum is None or score.value <= spec.maximum
    document = score.as_dict()
    if spec.maximum is not None:
        document |= {"max": spec.maximum, "passed": passed}
    out.result(document, score_table(score))
    if not passed:
        out.note(f"Gate failed: {score.metric} {score.value:.4f} is above {spec.maximum:g}.")
        raise typer.Exit(1)
