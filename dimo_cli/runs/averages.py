"""Students of a run with averages of other lengths: made, measured, and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dimo_cli.console.live import View
from dimo_cli.errors import SpecError
from dimo_cli.evaluation.yardstick import Measurement, Yardstick
from dimo_cli.files.png import enlarge, save_png
from dimo_cli.files.writing import writing_to
from dimo_cli.run_folder.listing import RUN_SPEC, check_run
from dimo_cli.run_folder.state import is_refinement
from dimo_cli.runs.prompts import attach_prompts
from dimo_cli.sampling.previews import preview_conditions, preview_grid
from dimo_cli.sampling.samplers import student_sampler
from dimo_cli.specs.averages import AveragesSpec
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.manifest import MANIFEST, PREVIEW
from dimo_cli.specs.metrics import is_better
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.students.averaged import Kept, kept_by, open_last, with_average
from dimo_cli.students.folder import example_for, write_student
from dimo_cli.students.student import LoadOptions, Student
from dimo_cli.teachers.conditioning import PromptConditioner
from dimo_cli.teachers.protocol import Teacher


@dataclass(frozen=True)
class Average:
    """A student of a run by one average; without a length, the run's own."""

    length: float | None
    error: float | None
    """What of its profile the snapshots could not make, as a share."""
    measured: Measurement | None = None
    folder: Path | None = None
    """Where it was written."""
    sha256: str | None = None

    def document(self, is_best: bool) -> dict[str, Any]:
        """For machines."""
        row: dict[str, Any] = {"length": self.length, "profile_error": self.error}
        if self.measured is not None:
            row |= {**self.measured.as_dict(), "best": is_best}
        if self.folder is not None:
            row |= {"student": str(self.folder), "weights_sha256": self.sha256}
        return row


@dataclass(frozen=True)
class Averages:
    """All that one call made; where they were measured, the first is the run's own."""

    run: Path
    kept: Kept
    rows: tuple[Average, ...]
    example: str | None = None
    """A prompt to draw with; None where the student takes classes."""

    @property
    def best(self) -> Average | None:
        """The best of those that were measured."""
        return best_of(self.rows)

    def document(self) -> dict[str, Any]:
        """For machines."""
        return {
            "run": str(self.run),
            "step": self.kept.steps[-1],
            "snapshots": len(self.kept.steps),
            "averages": [row.document(row is self.best) for row in self.rows],
        }


def best_of(rows: Sequence[Average]) -> Average | None:
    """The best measured row; of equal ones the first."""
    best: Average | None = None
    for row in rows:
        if row.measured is not None and (
            best is None
            or best.measured is None
            or is_better(row.measured.metric, row.measured.value, best.measured.value)
        ):
            best = row
    return best


def make_averages(spec: AveragesSpec, view: View) -> Averages:
    """Make every length that is asked for; where they are measured, only the best is written."""
    run = Path(spec.run).expanduser()
    check_run(run)
    kept = kept_by(run)
    for length in spec.lengths:
        kept.mixture(length)  # all refusals before anything is loaded
        check_place(place_of(spec, run, length))
    student = open_last(run, LoadOptions(say=view.note))
    if spec.measure:
        rows = measured_averages(spec, run, kept, student, view)
        best = best_of(rows[1:])
        found = [written(spec, run, kept, student, row) if row is best else row for row in rows]
    else:
        plain = [Average(length, None) for length in spec.lengths]
        found = [written(spec, run, kept, student, row) for row in plain]
    example = example_for(student.teacher)
    return Averages(run, kept, tuple(found), example if isinstance(example, str) else None)


def place_of(spec: AveragesSpec, run: Path, length: float) -> Path:
    """Where the student of a length goes."""
    return spec.folder.expanduser() if spec.folder else run / f"student-ema-{length:g}"


def check_place(folder: Path) -> None:
    """Refuse a folder that holds anything but a student of this command."""
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise SpecError(f"`{folder}` exists, and is no student.", "Choose another `--out`.")
    if folder.name == "student" and (folder.parent / RUN_SPEC).is_file():
        raise SpecError(f"`{folder}` is the run's own student.", "Choose another `--out`.")


def measured_averages(
    spec: AveragesSpec, run: Path, kept: Kept, student: Student, view: View
) -> list[Average]:
    """The run's own average and every length, measured alike."""
    model = RefineSpec if is_refinement(run) else DistillSpec
    settings = resolve_spec(model, file=run / RUN_SPEC, environment={}).spec
    yardstick = yardstick_for(settings, student, view)
    images = spec.images or settings.monitor.fid_samples
    total = yardstick.count(images) * (1 + len(spec.lengths))
    advance = view.stage(f"measure {1 + len(spec.lengths)} averages", total)

    def measure(one: Student) -> Measurement:
        sampler, protocol = student_sampler(one)
        return yardstick.measure(sampler, images=images, protocol=protocol, progress=advance)

    rows = [Average(None, None, measure(student))]
    for length in spec.lengths:
        other, made = with_average(student, kept, length)
        rows.append(Average(length, made.error, measure(other)))
    return rows


def yardstick_for(settings: DistillSpec, student: Student, view: View) -> Yardstick:
    """What the run was held against, with the prompts that it was trained on."""
    if settings.monitor.prompts is None:
        attach_prompts(student.teacher, settings)
    device = next(student.backbone.parameters()).device
    return Yardstick(settings, student.teacher, device, view.note)


def written(spec: AveragesSpec, run: Path, kept: Kept, student: Student, row: Average) -> Average:
    """The student folder of a length, with its preview."""
    assert row.length is not None
    other, made = with_average(student, kept, row.length)
    if row.measured is not None and other.manifest.chosen is not None:
        found = row.measured
        chosen = other.manifest.chosen.model_copy(
            update={"metric": found.metric, "value": found.value, "images": found.images}
        )
        other = replace(other, manifest=other.manifest.model_copy(update={"chosen": chosen}))
    folder = place_of(spec, run, row.length)
    with writing_to(folder, "Choose another `--out`."):
        saved = write_student(folder, other)
        wanted = shown(saved.teacher)
        picture = enlarge(preview_grid(saved, wanted), 320)
        save_png(picture, folder / PREVIEW, {"dimo.student": saved.short_id})
    digest = saved.manifest.weights_sha256
    return replace(row, error=made.error, folder=folder, sha256=digest)


def shown(teacher: Teacher) -> list[int] | list[str]:
    """What a preview shows: classes in turn, or prompts that the teacher brings along."""
    conditioner = teacher.conditioner
    if isinstance(conditioner, PromptConditioner) and not conditioner.dataset:
        return [str(example_for(teacher))] * 4
    return preview_conditions(teacher, 20)
