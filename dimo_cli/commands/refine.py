"""`dimo refine`: a one-step student made better than its teacher (Soft-Di[M]O)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dimo_cli.commands import completing
from dimo_cli.commands.launching import (
    GpusOption,
    MainOption,
    NodeOption,
    NodesOption,
    ProcessesOption,
    ShardOption,
    agreed_folder,
    asked_for,
    carry_out,
    check_launch,
)
from dimo_cli.commands.options import (
    DryRunOption,
    JsonOption,
    LocalDirOption,
    QuietOption,
    SetOption,
    SpecOption,
    command,
    example,
    with_local_dir,
)

if TYPE_CHECKING:
    from dimo_cli.specs.refine import RefineSpec
    from dimo_cli.specs.resolve import Plan

EXAMPLES = example(
    "dimo refine runs/digits --gan",
    "dimo refine runs/meissonic --reward clip=0.2 --reward image_reward=1.0",
    "dimo refine --resume runs/digits-gan",
)


@command
def refine(
    student: Annotated[
        str | None,
        typer.Argument(
            help="Run folder, student folder or Hub id to start from.",
            autocompletion=completing.students,
        ),
    ] = None,
    gan: Annotated[
        bool, typer.Option("--gan", help="Train against real images, through the teacher.")
    ] = False,
    rewards: Annotated[
        list[str] | None,
        typer.Option(
            "--reward",
            metavar="NAME=WEIGHT",
            help="Train for this reward, and not for the preset's; repeatable.",
            autocompletion=completing.rewards,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            "-p",
            help="Start from a preset (see `dimo presets list`).",
            autocompletion=completing.refine_presets,
        ),
    ] = None,
    spec: SpecOption = None,
    sets: SetOption = None,
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder; default: runs/PRESET.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Continue the run in this folder.")
    ] = None,
    local_dir: LocalDirOption = None,
    dry_run: DryRunOption = False,
    gpus: GpusOption = None,
    shard: ShardOption = False,
    processes: ProcessesOption = None,
    nodes: NodesOption = 1,
    node: NodeOption = 0,
    main: MainOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Refine a one-step student with a GAN, with rewards, or with both."""
    launch = asked_for(
        gpus=gpus, shard=shard, processes=processes, nodes=nodes, node=node, main=main
    )
    given = with_local_dir(sets, local_dir)
    if resume is None:
        plan, target = new_run(student, gan, rewards or [], preset, spec, given, folder)
    else:
        plan, target = continued_run(resume, given, student, gan, rewards, preset, spec, folder)
    check_launch(launch, plan.spec, has_folder=bool(folder or resume))
    if dry_run:
        from dimo_cli.commands.distill import show_plan

        show_plan(plan, target, launch)
    elif not carry_out(launch):
        train(plan, target, resuming=resume is not None)


def new_run(
    student: str | None,
    gan: bool,
    rewards: list[str],
    preset: str | None,
    file: Path | None,
    sets: list[str],
    folder: Path | None,
) -> tuple[Plan[RefineSpec], Path]:
    """The plan of a new run: preset, then what the student brings along, then flags."""
    from dimo_cli.commands.distill import free_folder
    from dimo_cli.errors import SpecError
    from dimo_cli.specs.refine import RefineSpec
    from dimo_cli.specs.resolve import refine_preset_names, resolve_spec
    from dimo_cli.students.published import look_at_student

    if student is None:
        raise SpecError(
            "Say which student to refine: a run folder, a student folder or a Hub id.",
            "For example `dimo refine runs/digits --gan`.",
        )
    if not (gan or rewards or preset or file):
        raise SpecError(
            "Say how to refine: `--gan`, `--reward NAME=WEIGHT`, or a preset.",
            f"Presets: {', '.join(refine_preset_names())}.",
        )
    manifest = look_at_student(student)
    teacher = manifest.teacher.name
    kind = "reward" if rewards and not gan else "gan"
    if preset is None and file is None:
        wanted = f"{teacher}-{kind}"
        preset = wanted if wanted in refine_preset_names() else teacher
    brought = {
        "teacher": {"name": teacher, "architecture": dict(manifest.teacher.architecture)},
        "init": manifest.init.model_dump(),
        "student": {"temperature": manifest.temperature},
    }
    flags: dict[str, dict[str, Any]] = {"argument STUDENT": {"start": student}}
    if gan:
        flags["flag --gan"] = {"gan": {"enabled": True}}
    if terms := dict(map(reward_weight, rewards)):
        flags[f"flag --reward {', '.join(terms)}"] = {"reward": {"terms": terms}}
    base = (f"student {student}", brought)
    plan = resolve_spec(RefineSpec, preset=preset, file=file, sets=sets, base=base, flags=flags)
    check_rewards(plan.spec)
    return plan, folder or free_folder(Path("runs"), preset or "refined")


def check_rewards(spec: RefineSpec) -> None:
    """Refuse rewards that do not exist, wherever they were named."""
    from dimo_cli.rewards.registry import check_reward

    for name in (*spec.reward.terms, *filter(None, [spec.reward.held_out])):
        check_reward(name)


def reward_weight(text: str) -> tuple[str, float]:
    """NAME=WEIGHT, or NAME alone for the weight 1."""
    from dimo_cli.errors import SpecError
    from dimo_cli.rewards.registry import check_reward

    name, _, weight = text.partition("=")
    check_reward(name)
    try:
        return name, float(weight or 1)
    except ValueError:
        raise SpecError(
            f"`--reward {text}` is not of the form NAME=WEIGHT.", "For example `--reward clip=0.2`."
        ) from None


def continued_run(folder: Path, sets: list[str], *others: object) -> tuple[Plan[RefineSpec], Path]:
    """The plan of a run that goes on."""
    from dimo_cli.errors import MissingError, SpecError
    from dimo_cli.specs.refine import RefineSpec
    from dimo_cli.specs.resolve import resolve_spec

    if any(other for other in others):
        raise SpecError(
            "`--resume` takes everything from the run: leave out STUDENT, --gan, --reward, "
            "--preset, --spec and --out."
        )
    if not (folder / "run.yaml").is_file():
        raise MissingError(f"`{folder}` holds no run to resume: it has no run.yaml.")
    return resolve_spec(RefineSpec, file=folder / "run.yaml", sets=sets), folder


def train(plan: Plan[RefineSpec], folder: Path, resuming: bool) -> None:
    """Refine, then show the closing table."""
    from dimo_cli.commands.distill import show_run
    from dimo_cli.runs.refine import refine as work

    with agreed_folder(folder) as agreed:
        show_run(
            plan.spec.start or "student",
            agreed,
            lambda view: work(plan.spec, agreed, view, resuming, plan.origins),
        )
