"""`distill`, `refine` and `resume`: the same runs as the commands make."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dimo_cli.distributed.ranks import as_first_says, joined_ranks
from dimo_cli.errors import SpecError
from dimo_cli.planning.plan import refuse_without_memory
from dimo_cli.python.callbacks import check_callbacks
from dimo_cli.python.process import left_as_it_was
from dimo_cli.python.run import Run
from dimo_cli.python.settings import Settings, Start, layers_of, read_source
from dimo_cli.python.watching import Progress, Watching, view_of
from dimo_cli.rewards.registry import check_reward
from dimo_cli.run_folder.naming import free_folder
from dimo_cli.run_folder.state import check_resumable, finished_as, is_refinement
from dimo_cli.runs.distill import distill as carry_out_distillation
from dimo_cli.runs.plans import begin_refinement
from dimo_cli.runs.refine import refine as carry_out_refinement
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.launch import LaunchSpec
from dimo_cli.specs.refine import RefineSpec, reward_names
from dimo_cli.specs.resolve import Plan, preset_names, resolve_spec
from dimo_cli.specs.unread import refuse_unread
from dimo_cli.training.stopping import Interrupted


@left_as_it_was()
def distill(
    spec: Start | None = None,
    *,
    preset: str | None = None,
    out: str | os.PathLike[str] | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    set: Settings | None = None,
    callbacks: Sequence[object] = (),
    progress: Progress = False,
    force: bool = False,
    **groups: Any,
) -> Run:
    """Distill a masked diffusion teacher into a one-step student, as `dimo distill` does.

    `spec` is the name of a preset, a YAML file, a dictionary or a `DistillSpec`; `preset` is one to
    lay it over. Then `groups` of settings count (`train={"seed": 1}`), then `steps` and
    `batch_size`, and last `set`, which has settings by path (`{"train.seed": 1}`).

    The run goes to the folder `out`, or a new one in `runs/`, and is bit for bit that of the
    command. `callbacks` are called meanwhile (see `Callback`). `progress=True` shows what the
    command shows; a function such as `print` is given a line now and then. `force` starts a run
    even if memory seems not to be enough.
    """
    start = read_source(spec, preset, DistillSpec)
    if not (start.preset or start.has_spec):
        raise SpecError(
            "Say what to distill: give a preset or a spec.",
            f"Presets: {', '.join(preset_names())}.",
        )
    plan = start.plan(
        layers_of(groups, {"train.steps": steps, "train.batch_size": batch_size}, set)
    )
    refuse_unread(plan.spec, plan.origins)
    folder = folder_for(out, start.name or plan.spec.teacher.name)
    return carry_out(plan, folder, callbacks, progress, force)


@left_as_it_was()
def refine(
    student: str | os.PathLike[str],
    spec: Start | None = None,
    *,
    gan: bool | None = None,
    reward: str | Mapping[str, float] | None = None,
    preset: str | None = None,
    out: str | os.PathLike[str] | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    set: Settings | None = None,
    callbacks: Sequence[object] = (),
    progress: Progress = False,
    force: bool = False,
    **groups: Any,
) -> Run:
    """Refine a one-step student with a GAN, with rewards, or with both, as `dimo refine` does.

    `student` is a `Run`, a run folder (or `RUN@best`), a student folder or a Hub id. `gan=True`
    trains against real images; `reward` is the name of one reward, or the weights of several by
    name. Everything else is as for `distill`.
    """
    start = read_source(spec, preset, RefineSpec)
    rewards = {reward: 1.0} if isinstance(reward, str) else reward
    begun = begin_refinement(
        os.fspath(student), start.preset, start.has_spec, bool(gan), bool(rewards)
    )
    own: dict[str, Any] = {
        "start": begun.student,
        "gan.enabled": gan,
        "reward.terms": rewards,
        "train.steps": steps,
        "train.batch_size": batch_size,
    }
    start = replace(start, preset=begun.preset)
    plan = start.plan(layers_of(groups, own, set), begun.base)
    refuse_unread(plan.spec, plan.origins)
    for name in reward_names(plan.spec):
        check_reward(name)
    return carry_out(plan, folder_for(out, begun.preset or "refined"), callbacks, progress, force)


@left_as_it_was()
def resume(
    run: str | os.PathLike[str],
    *,
    steps: int | None = None,
    set: Settings | None = None,
    callbacks: Sequence[object] = (),
    progress: Progress = False,
    force: bool = False,
) -> Run:
    """Continue a run from its newest checkpoint, on a CPU bit for bit as if it had never stopped.

    `run` is a `Run` or its folder, of `distill` or `refine`. Only `steps` and what else may change
    can be set. A run that is finished is given back as it is.
    """
    folder = Path(run).expanduser()
    check_resumable(folder)
    model = RefineSpec if is_refinement(folder) else DistillSpec
    layers = layers_of({}, {"train.steps": steps}, set)
    plan = resolve_spec(model, file=folder / "run.yaml", flags=layers)
    if finished_as(folder, plan.spec):
        check_callbacks(callbacks)
        return Run(folder)
    return carry_out(plan, folder, callbacks, progress, force, resuming=True)


def carry_out(
    plan: Plan[Any],
    folder: Path,
    callbacks: Sequence[object],
    progress: Progress,
    force: bool,
    resuming: bool = False,
) -> Run:
    """Train in a folder, while callbacks watch."""
    check_callbacks(callbacks)
    if not force and "RANK" not in os.environ:  # a launcher's processes share what there is
        refuse_without_memory(plan.spec, LaunchSpec(), "`force=True`")
    refines = isinstance(plan.spec, RefineSpec)
    name = plan.spec.start if refines else plan.spec.teacher.name
    work: Callable[..., object] = carry_out_refinement if refines else carry_out_distillation
    ended_by = 0
    with joined_ranks():
        folder = as_first_says(folder)
        watching = Watching(folder, callbacks, view_of(progress, f"dimo: {name} -> {folder}"))
        try:
            work(plan.spec, folder, watching, resuming, plan.origins)
        except Interrupted as stop:
            ended_by = stop.signal_number
            watching.note(f"Stopped at step {stop.step}; checkpoint written to {stop.checkpoint}.")
        finally:
            watching.end()
    if ended_by:  # now it may do what it would have done without a run
        signal.raise_signal(ended_by)
    return Run(folder)


def folder_for(out: str | os.PathLike[str] | None, name: str) -> Path:
    """The folder that was asked for, or a new one."""
    return free_folder(Path("runs"), name) if out is None else Path(out).expanduser()
