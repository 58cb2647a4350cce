"""`dimo distill`: a masked diffusion teacher into a one-step student."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dimo_cli.commands.frame import command
from dimo_cli.commands.launching import agreed_folder, asked_for, speaks
from dimo_cli.commands.options import LOOP, RunOptions
from dimo_cli.commands.running import (
    carry_out_run,
    continued_folder,
    show_run,
)
from dimo_cli.console.output import out
from dimo_cli.errors import SpecError
from dimo_cli.run_folder.naming import free_folder
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.flags import Given
from dimo_cli.specs.launch import LaunchSpec
from dimo_cli.specs.resolve import Plan, preset_names, resolve_spec
from dimo_cli.specs.unread import refuse_unread

app = typer.Typer()
EXAMPLES = """
dimo distill --preset digits
dimo distill --preset digits --steps 3000 --out runs/long
dimo distill --resume runs/long --steps 5000
dimo distill --preset maskbit --gpus 8
dimo distill --preset meissonic --set condition.prompts=hub:you/prompts:text
"""


@command(app, "distill", EXAMPLES)
def distill(
    run: RunOptions,
    loop: Annotated[Given[DistillSpec], LOOP],
    processes: Given[LaunchSpec],
) -> None:
    """Distill a masked diffusion teacher into a one-step student (Di[M]O)."""
    launch = asked_for(processes)
    plan, target = continued_run(run, loop) if run.resume else new_run(run, loop)
    carry_out_run(run, launch, plan, target, distill_in)


def new_run(run: RunOptions, loop: Given[DistillSpec]) -> tuple[Plan[DistillSpec], Path]:
    """The plan of a new run, and its folder."""
    if run.preset is None and run.spec is None:
        raise SpecError(
            "Say what to distill: give `--preset` or `--spec`.",
            f"Presets: {', '.join(preset_names())}.",
        )
    plan = resolve_spec(
        DistillSpec,
        preset=run.preset,
        file=run.spec,
        sets=run.settings,
        flags=loop.layers(),
    )
    refuse_unread(plan.spec, plan.origins)
    name = run.preset or (run.spec.stem if run.spec else "run")
    return plan, run.folder or free_folder(Path("runs"), name)


def continued_run(run: RunOptions, loop: Given[DistillSpec]) -> tuple[Plan[DistillSpec], Path]:
    """The plan of a run that goes on, and its folder."""
    if run.preset or run.spec or run.folder:
        raise SpecError(
            "`--resume` takes its spec from the run: leave out --preset, --spec and --out.",
            "Change what may change, for example with `--steps 5000`.",
        )
    folder = continued_folder(run, is_refinement_wanted=False)
    plan = resolve_spec(
        DistillSpec, file=folder / "run.yaml", sets=run.settings, flags=loop.layers()
    )
    return plan, folder


def distill_in(plan: Plan[DistillSpec], folder: Path, resuming: bool) -> None:
    """Train, then show the closing table."""
    name = plan.spec.teacher.name
    if not (out.quiet or out.as_json) and speaks():
        out.talk.print(f"Loading torch and the teacher `{name}` ...", style="faint")
    from dimo_cli.runs.distill import distill as work

    with agreed_folder(folder) as agreed:
        show_run(
            name,
            agreed,
            lambda view: work(plan.spec, agreed, view, resuming, plan.origins),
        )
