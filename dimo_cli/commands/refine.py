"""`dimo refine`: a one-step student made better than its teacher (Soft-Di[M]O)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dimo_cli.commands.frame import command
from dimo_cli.commands.launching import agreed_folder, asked_for
from dimo_cli.commands.options import LOOP, RunOptions, read_weights
from dimo_cli.commands.parameters import Fields
from dimo_cli.commands.running import (
    carry_out_run,
    continued_folder,
    show_run,
)
from dimo_cli.errors import SpecError
from dimo_cli.rewards.registry import check_reward
from dimo_cli.run_folder.naming import free_folder
from dimo_cli.specs.flags import Given
from dimo_cli.specs.launch import LaunchSpec
from dimo_cli.specs.refine import RefineSpec, reward_names
from dimo_cli.specs.resolve import Plan, resolve_spec
from dimo_cli.specs.unread import refuse_unread

app = typer.Typer()
EXAMPLES = """
dimo refine runs/digits --gan
dimo refine runs/meissonic --reward clip=0.2 --reward image_reward=1.0
dimo refine --resume runs/digits-gan
"""
TERMS = Fields(
    only=("start", "gan.enabled", "reward.terms"),
    said={
        "gan.enabled": "Train against real images, through the teacher",
        "reward.terms": "Train for this reward, and not for the preset's",
    },
)


@command(app, "refine", EXAMPLES)
def refine(
    terms: Annotated[Given[RefineSpec], TERMS],
    run: RunOptions,
    loop: Annotated[Given[RefineSpec], LOOP],
    processes: Given[LaunchSpec],
) -> None:
    """Refine a one-step student with a GAN, with rewards, or with both."""
    launch = asked_for(processes)
    begin = continued_run if run.resume else new_run
    plan, target = begin(terms, run, loop)
    carry_out_run(run, launch, plan, target, refine_in)


def new_run(
    terms: Given[RefineSpec], run: RunOptions, loop: Given[RefineSpec]
) -> tuple[Plan[RefineSpec], Path]:
    """The plan of a new run: preset, then what the student brings along, then flags."""
    from dimo_cli.runs.plans import begin_refinement

    student, gan, rewards = (terms.get(path) for path in TERMS.only)
    if student is None:
        raise SpecError(
            "Say which student to refine: a run folder, a student folder or a Hub id.",
            "For example `dimo refine runs/digits --gan`.",
        )
    found = begin_refinement(student, run.preset, bool(run.spec), bool(gan), bool(rewards))
    named = {"reward.terms": read_weights(rewards)} if rewards else {}
    plan = resolve_spec(
        RefineSpec,
        preset=found.preset,
        file=run.spec,
        sets=run.settings,
        base=found.base,
        flags={**terms.layers({"start": found.student, **named}), **loop.layers()},
    )
    refuse_unread(plan.spec, plan.origins)
    for name in reward_names(plan.spec):
        check_reward(name)  # wherever it was named
    return plan, run.folder or free_folder(Path("runs"), found.preset or "refined")


def continued_run(
    terms: Given[RefineSpec], run: RunOptions, loop: Given[RefineSpec]
) -> tuple[Plan[RefineSpec], Path]:
    """The plan of a run that goes on, and its folder."""
    if terms or run.preset or run.spec or run.folder:
        raise SpecError(
            "`--resume` takes everything from the run: leave out STUDENT, --gan, --reward, "
            "--preset, --spec and --out."
        )
    folder = continued_folder(run, is_refinement_wanted=True)
    plan = resolve_spec(
        RefineSpec, file=folder / "run.yaml", sets=run.settings, flags=loop.layers()
    )
    return plan, folder


def refine_in(plan: Plan[RefineSpec], folder: Path, resuming: bool) -> None:
    """Refine, then show the closing table."""
    from dimo_cli.runs.refine import refine as work

    with agreed_folder(folder) as agreed:
        show_run(
            plan.spec.start or "student",
            agreed,
            lambda view: work(plan.spec, agreed, view, resuming, plan.origins),
        )
