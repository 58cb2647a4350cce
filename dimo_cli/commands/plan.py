"""What a run would do: shown by `--dry-run`, and in part by `dimo spec check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dimo_cli.specs.launch import LaunchSpec
from dimo_cli.specs.render import changed_values, commented_yaml

if TYPE_CHECKING:
    from dimo_cli.planning.memory import MemoryEstimate
    from dimo_cli.specs.distill import DistillSpec
    from dimo_cli.specs.resolve import Plan
    from dimo_cli.teachers.protocol import Teacher


def origins_table(changed: list[tuple[str, str, str]]) -> RenderableType:
    """Every value that is not the default, and where it comes from."""
    if not changed:
        return Text("Every value is the default.")
    table = Table("setting", "value", "from", box=None, header_style="bold")
    for path, value, origin in changed:
        table.add_row(Text(path), Text(value), Text(origin, style="dim"))
    return table


def size(count: float) -> str:
    """Bytes in words."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def flops(count: float) -> str:
    """Floating-point operations in words."""
    for unit in ("MFLOP", "GFLOP"):
        if count < 1e9:
            return f"{count / 1e6:.1f} {unit}"
        count /= 1000
    return f"{count / 1e6:.1f} TFLOP"


def describe(
    plan: Plan[DistillSpec], folder: Path, launch: LaunchSpec | None = None
) -> tuple[dict[str, Any], RenderableType]:
    """The resolved spec, its origins, the memory estimate and the plan, as document and view."""
    from dimo_cli.engine.divergence import build_divergence
    from dimo_cli.engine.masking import check_control
    from dimo_cli.engine.share import divide, local_train
    from dimo_cli.planning.flops import flops_per_step
    from dimo_cli.teachers.registry import load_skeleton
    from dimo_cli.training.tracking import check_tracker

    spec = plan.spec
    teacher = load_skeleton(spec.teacher)
    check_control(teacher.space, spec.init.control, spec.init.control_token)
    build_divergence(spec.loss.divergence)
    check_tracker(spec.monitor.tracker)
    launch = launch or LaunchSpec()
    share = divide(spec.train, 0, launch.total)
    own = spec.model_copy(update={"train": local_train(spec.train, share)})
    memory, place, available, advice = memory_of_each(teacher, own, launch)
    arithmetic = flops_per_step(teacher, spec)
    parameters = sum(p.numel() for p in teacher.backbone.parameters())
    samples = spec.train.steps * spec.train.batch_size * spec.train.accumulate
    steps = {
        "teacher": teacher.name,
        "parameters": parameters,
        "steps": spec.train.steps,
        "samples": samples,
        "forwards_per_step": forwards_per_step(spec),
        "flops_per_step": arithmetic,
        "processes": launch.total,
        "samples_per_pass": share.batch,
        "passes_per_process": share.passes,
        "run_folder": str(folder),
    }
    parts = {
        "weights": memory.weights,
        "gradients_and_optimizers": memory.gradients_and_optimizers,
        "activations": memory.activations,
        "logits": memory.logits,
        "total": memory.total,
    }
    changed = changed_values(spec, plan.origins)
    document = {
        "plan": steps,
        "memory_bytes": parts,
        "available_bytes": available,
        "fits": advice is None,
        "advice": advice,
        "origins": {path: origin for path, _, origin in changed},
        "spec": spec.model_dump(mode="json"),
    }
    table = Table.grid(padding=(0, 2))
    table.add_row("teacher", f"{teacher.name}, {parameters:,} parameters")
    table.add_row("training", f"{spec.train.steps:,} steps, {samples:,} generated samples")
    table.add_row(
        "each step",
        f"{steps['forwards_per_step']:g} forward passes of the backbone, about {flops(arithmetic)}",
    )
    shares = [f"{name.replace('_', ' ')} {size(parts[name])}" for name in parts if name != "total"]
    each = ""
    if launch.total > 1:
        kind = "GPUs" if launch.gpus else "CPU processes"
        passes = f"{share.passes} pass{'es' if share.passes > 1 else ''} of {share.batch} samples"
        table.add_row("shared by", f"{launch.total} {kind}, each with {passes} a step")
        each = " in each process"
    table.add_row("memory", f"about {size(memory.total)}{each}: {', '.join(shares)}")
    table.add_row("available", f"{size(available)}, {place}" if available else place)
    table.add_row("writes to", str(folder))
    view = Group(
        Text(commented_yaml(spec)),
        Text("\nNot the default", style="bold"),
        origins_table(changed),
        Text("\nPlan", style="bold"),
        table,
    )
    return document, view


def memory_of_each(
    teacher: Teacher, spec: DistillSpec, launch: LaunchSpec
) -> tuple[MemoryEstimate, str, int | None, str | None]:
    """What each process needs; where it would be, what is there, and what to change to fit."""
    import torch

    from dimo_cli.planning.memory import (
        advice_to_fit,
        blank_rewards,
        estimate_memory,
        sharded_estimate,
    )
    from dimo_cli.training.accelerator import machine_memory

    on_gpu = bool(launch.gpus) or (None if launch.total == 1 else False)
    memory = estimate_memory(teacher, spec, blank_rewards, on_gpu)
    if launch.shard:
        memory = sharded_estimate(memory, teacher.backbone, spec, launch.total)
    if launch.gpus and not torch.cuda.is_available():
        return memory, "no GPU here to compare with", None, None
    place, available = machine_memory()
    if launch.processes:
        available //= launch.on_each
    advice = advice_to_fit(teacher, spec, memory, available, blank_rewards, launch.total, on_gpu)
    return memory, place, available, advice


def forwards_per_step(spec: DistillSpec) -> float:
    """Backbone forwards of one step: student, guided teacher, auxiliary, auxiliary updates."""
    guidance, auxiliary = spec.teacher.guidance, spec.auxiliary
    student = 1 if spec.loss.student_input == "x_init" else 2
    teacher = 2 if guidance.needs_null else 1
    updates = auxiliary.updates * (2 if auxiliary.fresh_samples else 1)
    return (student + teacher + 1 + updates - auxiliary.share_x_tilde) * spec.train.accumulate
