"""What a finished run leaves to be looked at: teacher beside student, and the report."""

from __future__ import annotations

from pathlib import Path

from dimo_cli.console import next_steps
from dimo_cli.console.live import View
from dimo_cli.evaluation.yardstick import Measurement, Yardstick
from dimo_cli.sampling.samplers import student_sampler, teacher_sampler
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.student import Student


def comparison(
    student: Student,
    spec: DistillSpec,
    yardstick: Yardstick,
    folder: Path,
    view: View,
) -> list[Measurement]:
    """The closing table: the teacher at several step counts, then the student at one.

    The student is saved by then: who has no time for the table may have it later.
    """
    try:
        return measured_rows(student, spec, yardstick, view)
    except KeyboardInterrupt:
        later = next_steps.resume(folder, is_refinement=isinstance(spec, RefineSpec))
        view.note(
            f"The student is saved to {folder / 'student'}; its table is not measured yet. "
            f"Measure it with {later}, which keeps the rows that are there."
        )
        raise


def measured_rows(
    student: Student, spec: DistillSpec, yardstick: Yardstick, view: View
) -> list[Measurement]:
    """One row after another; the teacher's are known where an earlier run measured the same."""
    samplers = [
        teacher_sampler(student.teacher, SamplerSpec(teacher=True, steps=steps))
        for steps in spec.monitor.teacher_steps
    ]
    images = spec.monitor.table_samples
    total = yardstick.count(images) * (len(samplers) + 1)
    advance = view.stage("measure teacher and student", total)
    rows = [
        yardstick.measure_teacher(sampler, images=images, protocol=protocol, progress=advance)
        for sampler, protocol in samplers
    ]
    sampler, protocol = student_sampler(student)
    return [
        *rows,
        yardstick.measure(sampler, images=images, protocol=protocol, progress=advance),
    ]


def leave_report(folder: Path, view: View) -> Path | None:
    """Write the report of a finished run. If that fails, the run has not: it is only said."""
    from dimo_cli.reporting.page import write_report

    try:
        return write_report(folder, folder / "report.html")
    except Exception as error:
        view.note(f"The report could not be written: {type(error).__name__}: {error}")
        view.note(f"The run is complete; try again with {next_steps.report(folder)}.")
        return None
