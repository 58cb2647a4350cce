"""What a run would do and what it asks of a machine, before it runs: numbers, and no layout."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dimo_cli.engine.divergence import build_divergence
from dimo_cli.engine.masking import check_control
from dimo_cli.engine.objective import Drawing
from dimo_cli.engine.share import Share, divide, local_train
from dimo_cli.errors import MissingError, size
from dimo_cli.hub.access import dimo_cache, download_cache
from dimo_cli.planning.downloads import TO_DOWNLOAD, Need, bytes_of, needs_of
from dimo_cli.planning.fitting import Fit, fit_passes, is_left_open
from dimo_cli.planning.flops import drawings_of_run, flops_of_drawings, flops_per_step
from dimo_cli.planning.health import existing_parent
from dimo_cli.planning.hours import cost_document, seconds_on_h100
from dimo_cli.planning.memory import (
    MemoryEstimate,
    advice_to_fit,
    blank_rewards,
    checkpoint_bytes,
    estimate_memory,
    sharded_estimate,
    snapshot_bytes,
    surely_fits,
    without_memory,
)
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.launch import LaunchSpec
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.render import changed_values
from dimo_cli.specs.resolve import Plan
from dimo_cli.teachers.protocol import Teacher
from dimo_cli.teachers.registry import load_skeleton
from dimo_cli.teachers.stored import store
from dimo_cli.training.accelerator import machine_memory
from dimo_cli.training.tracking import check_tracker


@dataclass(frozen=True, slots=True)
class Room:
    """The memory that each process needs; where it would be, and how much is there."""

    needed: MemoryEstimate
    place: str
    available: int | None = None
    advice: str | None = None
    """What to change, where it does not fit."""

    @property
    def sentence(self) -> str:
        """What is needed and what is there."""
        return (
            f"This run needs about {size(self.needed.total)} of memory, and there are "
            f"{size(self.available or 0)}."
        )

    def parts(self) -> dict[str, int]:
        """Bytes by purpose, and their total."""
        return {**self.needed.parts, "total": self.needed.total}


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would do, and what it would need."""

    plan: Plan[Any]
    folder: Path
    launch: LaunchSpec
    teacher: str
    family: str
    parameters: int
    """Of the teacher's backbone."""
    share: Share
    """What each process has of a step."""
    fit: Fit | None
    """How its passes fit a GPU's memory, where they are fitted to one."""
    forwards: float
    """Of the backbone, in one step."""
    flops: float
    """Of one step."""
    flops_of_pairs: float
    """Of those that are drawn before and between the steps."""
    room: Room
    snapshots: int = 0
    """Bytes on disk of the snapshots that `dimo ema` makes other averages of."""

    checkpoint: int = 0
    """Bytes on disk of one checkpoint, about."""

    @property
    def checkpoints(self) -> int:
        """Bytes on disk of all checkpoints that there are at a time, one being written."""
        spec = self.plan.spec
        best = 1 if spec.monitor.fid_every else 0
        count: int = spec.train.keep_checkpoints + best + 1
        return count * self.checkpoint

    @property
    def free_disk(self) -> int:
        """Bytes that are left where the run would write."""
        return shutil.disk_usage(existing_parent(self.folder.resolve())).free

    @property
    def is_refinement(self) -> bool:
        """Whether there are losses beside Di[M]O's, whose arithmetic is not counted."""
        return isinstance(self.plan.spec, RefineSpec)

    @property
    def samples(self) -> int:
        """Generated samples of the whole run."""
        train = self.plan.spec.train
        count: int = train.steps * train.batch_size * train.accumulate
        return count

    @property
    def total_flops(self) -> float:
        """Of the whole run."""
        return self.flops * self.plan.spec.train.steps + self.flops_of_pairs

    @property
    def pairs(self) -> list[Drawing]:
        """What is drawn before and between the steps."""
        return drawings_of_run(self.plan.spec)

    @property
    def changed(self) -> list[tuple[str, str, str]]:
        """Every value that is not the default, and where it comes from."""
        return changed_values(self.plan.spec, self.plan.origins)

    def document(self) -> dict[str, Any]:
        """All of it for machines."""
        spec = self.plan.spec
        return {
            "plan": {
                "teacher": self.teacher,
                "parameters": self.parameters,
                "steps": spec.train.steps,
                "samples": self.samples,
                "forwards_per_step": self.forwards,
                "flops_per_step": self.flops,
                "pairs": [asdict(one) for one in self.pairs],
                "processes": self.launch.total,
                "samples_per_pass": self.share.batch,
                "passes_per_process": self.share.passes,
                "snapshot_bytes": self.snapshots,
                "checkpoint_bytes": self.checkpoint,
                "checkpoints_bytes": self.checkpoints,
                "free_disk_bytes": self.free_disk,
                "run_folder": str(self.folder),
            },
            "memory_bytes": self.room.parts(),
            "available_bytes": self.room.available,
            "fits": self.room.advice is None,
            "advice": self.room.advice,
            "origins": {path: origin for path, _, origin in self.changed},
            "spec": spec.model_dump(mode="json"),
        }


def forecast(plan: Plan[Any], folder: Path, launch: LaunchSpec | None = None) -> Forecast:
    """Look ahead at a run, refusing what the run itself would refuse; nothing is downloaded."""
    spec, launch = plan.spec, launch or LaunchSpec()
    teacher = load_skeleton(spec.teacher)
    check_settings(teacher, spec)
    fit = fit_here(teacher, spec, launch)
    fitted = fit.applied(spec) if fit else spec
    share = divide(fitted.train, 0, launch.total)
    own = fitted.model_copy(update={"train": local_train(fitted.train, share)})
    return Forecast(
        plan,
        folder,
        launch,
        teacher.name,
        teacher.family,
        sum(p.numel() for p in teacher.backbone.parameters()),
        share,
        fit,
        forwards_per_step(spec),
        flops_per_step(teacher, spec),
        flops_of_drawings(teacher, spec),
        room_of_each(teacher, own, launch),
        snapshot_bytes(teacher, spec),
        checkpoint_bytes(teacher, spec),
    )


def check_settings(teacher: Teacher, spec: DistillSpec) -> None:
    """Refuse what the run itself would refuse, as far as nothing has to be loaded for it."""
    check_control(teacher.space, spec.init.control, spec.init.control_token)
    build_divergence(spec.loss.divergence)
    check_tracker(spec.monitor.tracker)


def lacking(spec: DistillSpec, launch: LaunchSpec) -> Room | None:
    """The room of a run that would get less than it needs; None where it gets enough.

    On a GPU whose memory the passes will be fitted to, that is for the fitting to find out.
    """
    if not launch.processes and is_left_open(spec.train):
        return None
    teacher = load_skeleton(spec.teacher)
    share = divide(spec.train, 0, launch.total)
    own = spec.model_copy(update={"train": local_train(spec.train, share)})
    if surely_fits(teacher, own, machine_memory()[1] // launch.on_each):
        return None
    check_settings(teacher, spec)
    room = room_of_each(teacher, own, launch)
    return room if room.advice is not None else None


def refuse_without_memory(spec: DistillSpec, launch: LaunchSpec, force: str) -> None:
    """Refuse a run that the system would end for want of memory, before anything is loaded.

    `force` is how to start it all the same.
    """
    if (room := lacking(spec, launch)) is not None:
        raise MissingError(room.sentence, f"{room.advice} Or start it anyway with {force}.")


def fit_here(teacher: Teacher, spec: DistillSpec, launch: LaunchSpec) -> Fit | None:
    """The passes that a run on this machine's GPUs would choose; None where it has none to fit."""
    if launch.processes or not is_left_open(spec.train):
        return None
    return fit_passes(teacher, spec, machine_memory()[1], launch.total, launch.shard)


def room_of_each(teacher: Teacher, spec: DistillSpec, launch: LaunchSpec) -> Room:
    """What each process of a job needs, beside what it would have here."""
    on_gpu = bool(launch.gpus) or (None if launch.total == 1 else False)
    memory = estimate_memory(teacher, spec, blank_rewards, on_gpu)
    if launch.shard:
        memory = sharded_estimate(memory, teacher.backbone, spec, launch.total)
    if launch.gpus and not torch.cuda.is_available():
        return Room(memory, "no GPU here to compare with")
    place, available = machine_memory()
    if launch.processes:
        available //= launch.on_each
    advice = advice_to_fit(teacher, spec, memory, available, blank_rewards, launch.total, on_gpu)
    return Room(memory, place, available, advice)


def forwards_per_step(spec: DistillSpec) -> float:
    """Backbone forwards of one step: student, guided teacher, auxiliary, auxiliary updates."""
    guidance, auxiliary = spec.teacher.guidance, spec.auxiliary
    before = spec.student.passes_before
    student = before + (1 if spec.loss.student_input == "x_init" else 2)
    teacher = 2 if guidance.needs_null else 1
    updates = auxiliary.updates * (2 + before if auxiliary.fresh_samples else 1)
    return (student + teacher + 1 + updates - auxiliary.share_x_tilde) * spec.train.accumulate


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a preset asks of this machine: files, disk and memory, all sizes in bytes."""

    license: str
    files: list[Need]
    downloads: Path
    converted: Path
    free: int
    """Of the disk that downloads go to."""
    to_sample: int
    to_distill: int
    place: str
    available: int
    """Memory at that place."""
    advice: str | None
    """What to change, where distilling does not fit."""
    on_h100: float | None
    """Seconds of all steps on one H100, estimated."""

    @property
    def to_fetch(self) -> int:
        """What is still to be downloaded, as far as its size is known."""
        return sum(need.size or 0 for need in self.files if need.state == TO_DOWNLOAD)

    @property
    def out_of_reach(self) -> int:
        """What cannot be downloaded now, as far as its size is known."""
        return sum(need.size or 0 for need in self.files if not need.can_be_had)

    @property
    def problems(self) -> list[str]:
        """What stands in the way."""
        found = [need.file.path for need in self.files if not need.can_be_had]
        # A pickle is converted once, so it takes its size twice.
        found += ["disk space"] if 2 * self.to_fetch > self.free else []
        return found + (["memory"] if self.advice is not None else [])

    def document(self) -> dict[str, Any]:
        """All of it for machines."""
        return {
            "license": self.license,
            "files": [need.document() for need in self.files],
            "download_bytes": self.to_fetch,
            "download_folder": str(self.downloads),
            "converted_folder": str(self.converted),
            "free_bytes": self.free,
            "memory_to_sample_bytes": self.to_sample,
            "memory_bytes": self.to_distill,
            "available_bytes": self.available,
            "advice": self.advice,
            "cost": cost_document(self.on_h100),
            "problems": self.problems,
        }


def requirements(spec: DistillSpec, ask_hub: bool = True) -> Requirements:
    """What a preset would need here, in one process; the Hub is asked for sizes alone."""
    teacher = load_skeleton(spec.teacher)
    place, available = machine_memory()
    memory = estimate_memory(teacher, spec)
    drawing = without_memory(teacher.backbone)
    store(drawing, spec.teacher.weights)
    total = flops_per_step(teacher, spec) * spec.train.steps + flops_of_drawings(teacher, spec)
    return Requirements(
        teacher.license,
        needs_of(spec.teacher, teacher, ask_hub),
        download_cache(),
        dimo_cache() / "weights",
        shutil.disk_usage(existing_parent(download_cache())).free,
        bytes_of(drawing) + bytes_of(teacher.tokenizer),
        memory.total,
        place,
        available,
        advice_to_fit(teacher, spec, memory, available),
        seconds_on_h100(teacher.family, total),
    )
