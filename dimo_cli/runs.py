"""A run from spec to student: train, draw, save, and measure against the teacher.

run.yaml  log.jsonl  checkpoints/step-N/  samples/step-N.png  student/  summary.json
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dimo_cli import __version__
from dimo_cli.console.images import Pixels, enlarge, grid, save_png
from dimo_cli.console.live import View
from dimo_cli.engine.sampling import sample_teacher
from dimo_cli.engine.trainer import Trainer
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.metrics.fid import FidMeter, Sampler, Score
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.render import to_yaml
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students import Student, describe_run, save_student
from dimo_cli.teachers.protocol import Backbone, Cond, Teacher
from dimo_cli.teachers.registry import load_teacher

# Fields that may differ between a run and its continuation without changing what was trained.
FREE_ON_RESUME = (
    "train.steps",
    "train.device",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "monitor.",
)
PREVIEW_SEED, FID_SEED = 7, 20_000
SAMPLE_BATCH = 256


def to_pixels(images: Tensor) -> Pixels:
    """Images [B, 3, H, W] in [-1, 1] as bytes [B, H, W, 3]."""
    pixels: Pixels = (
        (images.float().mul(127.5).add(127.5).round().clamp(0, 255).byte())
        .permute(0, 2, 3, 1)
        .cpu()
        .numpy()
    )
    return pixels


def class_labels(count: int, classes: int) -> Tensor:
    """Labels 0, 1, 2, ... over and over."""
    return torch.arange(count) % classes


def teacher_sampler(
    teacher: Teacher, steps: int, guidance: float | None = None, temperature: float | None = None
) -> tuple[Sampler, dict[str, Any]]:
    """A teacher as a sampler of images, with its protocol."""
    defaults = teacher.sampler
    settings: dict[str, Any] = {
        "steps": steps,
        "guidance": defaults.guidance if guidance is None else guidance,
        "temperature": defaults.temperature if temperature is None else temperature,
        "schedule": defaults.schedule,
        "order": defaults.order,
    }

    def sample(cond: Cond, generator: torch.Generator) -> Tensor:
        tokens = sample_teacher(teacher, cond, generator, **settings)
        with torch.inference_mode():
            return teacher.tokenizer.decode(tokens)

    return sample, {"network": f"teacher:{teacher.name}", **settings}


def student_sampler(
    student: Student, temperature: float | None = None, top_k: int = 0, top_p: float = 0.0
) -> tuple[Sampler, dict[str, Any]]:
    """A student as a sampler of images, with its protocol."""
    settings: dict[str, Any] = {
        "temperature": temperature or student.manifest.temperature,
        "top_k": top_k,
        "top_p": top_p,
    }

    def sample(cond: Cond, generator: torch.Generator) -> Tensor:
        return student.sample(cond, generator, **settings)

    return sample, {"network": f"student:{student.short_id}", "steps": 1, **settings}


def build_sampler(student: Student, spec: SamplerSpec) -> tuple[Sampler, dict[str, Any]]:
    """The sampler that a spec asks for: the student, or its teacher."""
    if spec.teacher:
        steps = student.teacher.sampler.steps if spec.steps is None else spec.steps
        return teacher_sampler(student.teacher, steps, spec.guidance, spec.temperature)
    return student_sampler(student, spec.temperature, spec.top_k, spec.top_p)


def sample_images(
    student: Student,
    labels: list[int],
    spec: SamplerSpec,
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[Pixels, dict[str, Any]]:
    """Images of these classes as bytes [N, H, W, 3], with the protocol that made them."""
    sampler, protocol = build_sampler(student, spec)
    device = next(student.backbone.parameters()).device
    generator = torch.Generator(device).manual_seed(spec.seed)
    pixels = []
    for batch in torch.tensor(labels, device=device).split(SAMPLE_BATCH):
        pixels.append(to_pixels(sampler(student.teacher.conditioner.labels(batch), generator)))
        progress(len(batch))
    return np.concatenate(pixels), protocol


def provenance(student: Student, spec: SamplerSpec, protocol: dict[str, Any]) -> dict[str, str]:
    """What a PNG says about itself."""
    return {
        "Software": f"dimo {__version__}",
        "dimo.version": __version__,
        "dimo.student": "none" if spec.teacher else student.manifest.weights_sha256,
        "dimo.teacher": f"{student.teacher.name}@{student.teacher.revision}",
        "dimo.seed": str(spec.seed),
        "dimo.sampler": json.dumps(protocol, sort_keys=True),
    }


class RunWatcher:
    """Draws the previews and measures the FIDs that the trainer asks for."""

    def __init__(self, spec: DistillSpec, teacher: Teacher, folder: Path, view: View) -> None:
        self.spec, self.teacher, self.folder, self.view = spec, teacher, folder, view
        self.meter = FidMeter(teacher)

    def on_start(self, step: int) -> None:
        self.view.start(step, self.spec.train.steps)

    def on_log(self, record: dict[str, Any]) -> None:
        self.view.log(record)

    def on_note(self, message: str) -> None:
        self.view.note(message)

    def on_preview(self, step: int, student: Backbone) -> None:
        pixels = self.preview(student)
        self.view.preview(step, pixels)
        path = self.folder / "samples" / f"step-{step:06d}.png"
        save_png(enlarge(pixels, 320), path, {"dimo.version": __version__, "dimo.step": str(step)})

    def preview(self, student: Backbone) -> Pixels:
        """The same conditions and seed every time, so that previews can be compared."""
        labels = class_labels(self.spec.monitor.preview_images, len(self.teacher.class_names))
        return preview_grid(self.as_student(student), labels)

    def measure_fid(self, step: int, student: Backbone) -> float:
        sampler, protocol = student_sampler(self.as_student(student))
        score = self.meter.measure(
            sampler, images=self.spec.monitor.fid_samples, seed=FID_SEED, protocol=protocol
        )
        return score.value

    def as_student(self, backbone: Backbone) -> Student:
        """The averaged network as a student, though it is not on disk yet."""
        return Student(describe_run(self.spec, self.teacher, "0" * 64), self.teacher, backbone)


def preview_grid(student: Student, labels: Tensor, seed: int = PREVIEW_SEED) -> Pixels:
    """A grid of samples, ten in a row."""
    device = next(student.backbone.parameters()).device
    cond = student.teacher.conditioner.labels(labels.to(device))
    images = student.sample(cond, torch.Generator(device).manual_seed(seed))
    return grid(to_pixels(images), columns=10)


@dataclass(frozen=True)
class RunResult:
    """What a finished run has to show."""

    folder: Path
    student: Student
    rows: list[Score]

    def summary(self) -> dict[str, Any]:
        """The result as one JSON document."""
        document: dict[str, Any] = {
            "run": str(self.folder),
            "student": str(self.folder / "student"),
            "weights_sha256": self.student.manifest.weights_sha256,
        }
        if self.rows:
            *teachers, student = self.rows
            best = min(teachers, key=lambda score: score.value)
            document |= {
                "fid_student": student.value,
                "fid_teacher_best": best.value,
                "fid_over_teacher_best": student.value / best.value,
                "speed_up_over_teacher_best": best.seconds_per_image / student.seconds_per_image,
                "table": [score.as_dict() for score in self.rows],
            }
        return document


def prepare_folder(spec: DistillSpec, folder: Path) -> None:
    """Make a new run folder with its resolved spec, refusing one that is taken."""
    if (folder / "run.yaml").exists():
        raise SpecError(
            f"`{folder}` already holds a run.",
            f"Continue it with `dimo distill --resume {folder}`, or choose another `--out`.",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.yaml").write_text(to_yaml(spec), encoding="utf-8")
    except OSError as error:
        raise MissingError(
            f"Cannot write to `{folder}`: {error.strerror}.", "Choose another folder with `--out`."
        ) from None


def continue_folder(spec: DistillSpec, folder: Path) -> None:
    """Check what a continuation changes and write its spec over the old one."""
    path = folder / "run.yaml"
    check_resume(resolve_spec(DistillSpec, file=path, environment={}).spec, spec)
    path.write_text(to_yaml(spec), encoding="utf-8")


def check_resume(old: DistillSpec, new: DistillSpec) -> None:
    """Refuse to continue a run under settings that would have made another one."""
    before = flat(old.model_dump())
    changed = [
        path
        for path, value in flat(new.model_dump()).items()
        if before.get(path) != value and not path.startswith(FREE_ON_RESUME)
    ]
    if changed:
        raise SpecError(
            f"A resumed run cannot change {', '.join(f'`{path}`' for path in sorted(changed))}.",
            "Only train.steps, train.device, log and checkpoint intervals and monitor.* may "
            "change; start a new run for anything else.",
        )


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dictionary by dotted paths."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def distill(spec: DistillSpec, folder: Path, view: View, resume: bool = False) -> RunResult:
    """Train a student in `folder`, save it, and measure it beside its teacher."""
    teacher = load_teacher(spec.teacher.name)
    watcher = RunWatcher(spec, teacher, folder, view)
    trainer = Trainer(spec, teacher, folder, watcher)
    # Only now, when everything that could be refused has been: a refused run leaves no folder.
    if resume:
        continue_folder(spec, folder)
    else:
        prepare_folder(spec, folder)
    try:
        backbone = trainer.run(resume)
        student = save_student(folder / "student", spec, teacher, backbone)
        save_png(
            enlarge(watcher.preview(backbone), 320),
            folder / "student" / "preview.png",
            {"dimo.version": __version__, "dimo.student": student.short_id},
        )
        rows = (
            comparison(student, spec, watcher.meter, view.stage)
            if spec.monitor.table_samples
            else []
        )
    finally:
        view.stop()
    result = RunResult(folder, student, rows)
    text = json.dumps(result.summary(), indent=2)
    (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
    return result


def comparison(
    student: Student,
    spec: DistillSpec,
    meter: FidMeter,
    stage: Callable[[str, int], Callable[[int], None]],
) -> list[Score]:
    """The closing table: the teacher at several step counts, then the student at one."""
    samplers = [teacher_sampler(student.teacher, steps) for steps in spec.monitor.teacher_steps]
    samplers.append(student_sampler(student))
    images = spec.monitor.table_samples
    advance = stage("measure teacher and student", images * len(samplers))
    return [
        meter.measure(sampler, images=images, seed=FID_SEED, protocol=protocol, progress=advance)
        for sampler, protocol in samplers
    ]
