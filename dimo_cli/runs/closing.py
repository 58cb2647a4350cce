"""What a finished run leaves to be looked at: teacher beside student, and the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dimo_cli.console import next_steps
from dimo_cli.console.live import View
from dimo_cli.evaluation.yardstick import Measurement, Yardstick
from dimo_cli.sampling.samplers import student_sampler, teacher_sampler
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.student import Student


def comparison(
    student: Student,
    spec: DistillSpec,
    yardstick: Yardstick,
    stage: Callable[[str, int], Callable[[int], None]],
) -> list[Measurement]:
    """The closing table: the teacher at several step counts, then the student at one."""
    samplers = [
        teacher_sampler(student.teacher, SamplerSpec(teacher=True, steps=steps))
        for steps in spec.monitor.teacher_steps
    ]
    samplers.append(student_sampler(student))
    images = spec.monitor.table_samples
    advance = stage("measure teacher and student", yardstick.count(images) * len(samplers))
    return [
        yardstick.measure(sampler, images=images, protocol=protocol, progress=advance)
        for sampler, protocol in samplers
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
