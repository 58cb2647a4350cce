"""What a finished run leaves to be looked at: teacher beside student, and the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimo_cli.console import next_steps
from dimo_cli.console.live import View
from dimo_cli.errors import DimoError
from dimo_cli.evaluation.yardstick import Measurement, Yardstick
from dimo_cli.sampling.samplers import student_sampler, teacher_sampler
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.checkpoints import at_best
from dimo_cli.students.student import Student


@dataclass(frozen=True)
class AtBest:
    """What the run's student was at its best checkpoint, measured as the closing table is."""

    step: int
    measured: Measurement

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"step": self.step, **self.measured.as_dict()}


@dataclass(frozen=True)
class Closing:
    """The closing table: the teacher at several step counts, then the student at its own."""

    rows: list[Measurement]
    best: AtBest | None = None
    """None where the last checkpoint is the best, or none was measured on the way."""


def comparison(
    student: Student,
    spec: DistillSpec,
    yardstick: Yardstick,
    folder: Path,
    view: View,
) -> Closing:
    """Measure the closing table, and the best checkpoint where that is not the last one.

    The student is saved by then: who has no time for the table may have it later.
    """
    try:
        return closing(student, best_checkpoint(folder, student, view), spec, yardstick, view)
    except KeyboardInterrupt:
        later = next_steps.resume(folder, is_refinement=isinstance(spec, RefineSpec))
        view.note(
            f"The student is saved to {folder / 'student'}; its table is not measured yet. "
            f"Measure it with {later}, which keeps the rows that are there."
        )
        raise


def best_checkpoint(folder: Path, student: Student, view: View) -> Student | None:
    """The student of the best checkpoint; where that cannot be read, it is only said."""
    try:
        return at_best(folder, student)
    except DimoError as problem:
        view.note(f"The best checkpoint is not measured again. {problem.message}")
        return None


def closing(
    student: Student, best: Student | None, spec: DistillSpec, yardstick: Yardstick, view: View
) -> Closing:
    """One row after another; what was measured before under the same conditions is known."""
    samplers = [
        teacher_sampler(student.teacher, SamplerSpec(teacher=True, steps=steps))
        for steps in spec.monitor.teacher_steps
    ]
    images = spec.monitor.table_samples
    counts = student.manifest.step_counts
    total = yardstick.count(images) * (len(samplers) + len(counts) + (best is not None))
    advance = view.stage("measure teacher and student", total)
    rows = [
        yardstick.measure_once(sampler, images=images, protocol=protocol, progress=advance)
        for sampler, protocol in samplers
    ]
    for count in counts:
        sampler, protocol = student_sampler(student, steps=count)
        rows.append(yardstick.measure(sampler, images=images, protocol=protocol, progress=advance))
    if best is None:
        return Closing(rows)
    sampler, protocol = student_sampler(best)
    again = yardstick.measure_once(sampler, images=images, protocol=protocol, progress=advance)
    return Closing(rows, AtBest(best.manifest.training.steps or 0, again))


def leave_report(folder: Path, view: View) -> Path | None:
    """Write the report of a finished run. If that fails, the run has not: it is only said."""
    from dimo_cli.reporting.page import write_report

    try:
        return write_report(folder, folder / "report.html")
    except Exception as error:
        view.note(f"The report could not be written: {type(error).__name__}: {error}")
        view.note(f"The run is complete; try again with {next_steps.report(folder)}.")
        return None
