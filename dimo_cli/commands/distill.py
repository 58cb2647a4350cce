"""`dimo distill`: a masked diffusion teacher into a one-step student."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    speaks,
)
from dimo_cli.commands.options import (
    DryRunOption,
    JsonOption,
    LocalDirOption,
    PresetOption,
    QuietOption,
    SetOption,
    SpecOption,
    command,
    example,
    with_local_dir,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from dimo_cli.console.live import View
    from dimo_cli.runs.distill import RunResult
    from dimo_cli.specs.distill import DistillSpec
    from dimo_cli.specs.launch import LaunchSpec
    from dimo_cli.specs.resolve import Plan

EXAMPLES = example(
    "dimo distill --preset digits",
    "dimo distill --preset digits --set train.steps=3000 --out runs/long",
    "dimo distill --resume runs/long --set train.steps=5000",
    "dimo distill --preset maskbit --gpus 8",
)


@command
def distill(
    preset: PresetOption = None,
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
    """Distill a masked diffusion teacher into a one-step student (Di[M]O)."""
    launch = asked_for(
        gpus=gpus, shard=shard, processes=processes, nodes=nodes, node=node, main=main
    )
    given = with_local_dir(sets, local_dir)
    plan, target = resolve_run(preset, spec, given, folder, resume)
    check_launch(launch, plan.spec, has_folder=bool(folder or resume))
    if dry_run:
        show_plan(plan, target, launch)
    elif not carry_out(launch):
        train(plan, target, resuming=resume is not None)


def show_plan(plan: Plan[Any], folder: Path, launch: LaunchSpec) -> None:
    """Spec, estimates and plan of a run; refused if it does not fit the machine."""
    from dimo_cli.commands.plan import forecast_view, size
    from dimo_cli.console.output import out
    from dimo_cli.errors import MissingError
    from dimo_cli.planning.plan import forecast

    found = forecast(plan, folder, launch)
    out.result(found.document(), forecast_view(found))
    room = found.room
    if room.available is not None and room.advice is not None:
        needed, there = size(room.needed.total), size(room.available)
        out.note(f"This run needs about {needed}, and there are {there}.")
        out.hint(room.advice)
        raise typer.Exit(MissingError.exit_code)


def resolve_run(
    preset: str | None, file: Path | None, sets: list[str], folder: Path | None, resume: Path | None
) -> tuple[Plan[DistillSpec], Path]:
    """The plan of a new or a continued run, and its folder."""
    from dimo_cli.errors import MissingError, SpecError
    from dimo_cli.specs.distill import DistillSpec
    from dimo_cli.specs.resolve import preset_names, resolve_spec

    if resume is not None:
        if preset or file or folder:
            raise SpecError(
                "`--resume` takes its spec from the run: leave out --preset, --spec and --out.",
                "Change what may change with `--set`, e.g. `--set train.steps=5000`.",
            )
        if not (resume / "run.yaml").is_file():
            raise MissingError(
                f"`{resume}` holds no run to resume: it has no run.yaml.",
                "Start one with `dimo distill --preset digits`.",
            )
        return resolve_spec(DistillSpec, file=resume / "run.yaml", sets=sets), resume
    if preset is None and file is None:
        raise SpecError(
            "Say what to distill: give `--preset` or `--spec`.",
            f"Presets: {', '.join(preset_names())}.",
        )
    plan = resolve_spec(DistillSpec, preset=preset, file=file, sets=sets)
    return plan, folder or free_folder(Path("runs"), preset or (file.stem if file else "run"))


def free_folder(parent: Path, name: str) -> Path:
    """runs/NAME, or runs/NAME-2 and so on where that is taken."""
    folder, number = parent / name, 2
    while folder.exists():
        folder, number = parent / f"{name}-{number}", number + 1
    return folder


def train(plan: Plan[DistillSpec], folder: Path, resuming: bool) -> None:
    """Train, then show the closing table."""
    from dimo_cli.console.output import out

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


def show_run(start: str, folder: Path, work: Callable[[View], RunResult | None]) -> None:
    """Watch a run in the terminal, then show what came of it."""
    from rich.console import Group, RenderableType
    from rich.text import Text

    from dimo_cli.console.live import LiveView, PlainView
    from dimo_cli.console.output import out
    from dimo_cli.runs.tables import comparison_sentence, comparison_table
    from dimo_cli.training.trainer import Interrupted

    talk = out.talk
    view: View
    if out.quiet or not talk.is_terminal:
        view = PlainView((lambda line: None) if out.quiet else out.note)
    else:
        view = LiveView(talk, f"dimo: {start} -> {folder}")
    try:
        result = work(view)
    except Interrupted as stop:
        if out.silent:  # of several processes the first one says it, and is waited for
            raise typer.Exit from None
        out.note(f"Stopped at step {stop.step}; checkpoint written to {stop.checkpoint}.")
        out.hint(f"Continue with the same command and `--resume {folder}` alone.")
        raise typer.Exit(stop.exit_code) from None
    if result is None:
        return
    saved = Text(f"Student saved to {folder / 'student'}")
    if (folder / "report.html").is_file():
        saved.append(f", report to {folder / 'report.html'}")
    shown: RenderableType = saved
    if result.rows:
        table = comparison_table(result.rows)
        shown = Group(table, Text(""), comparison_sentence(result.rows), saved)
    out.result(result.summary(), shown)
    out.hint(f"Sample it with `dimo sample --student {folder} -n 40`.")
