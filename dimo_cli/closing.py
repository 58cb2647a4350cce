"""What a finished run leaves to be looked at: teacher beside student, and the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from dimo_cli import __version__
from dimo_cli.console.images import enlarge, grid, save_png
from dimo_cli.console.live import View
from dimo_cli.metrics.fid import FidMeter, Score
from dimo_cli.samplers import Target, sample_images, student_sampler, teacher_sampler
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students import Student
from dimo_cli.teachers.classes import short_name
from dimo_cli.teachers.protocol import Teacher

PREVIEW_SEED, FID_SEED = 7, 20_000
MOST_IMAGES, COLUMNS, SMALLEST_SIDE = 20, 5, 240


def condition_names(teacher: Teacher, wanted: Sequence[int] | Sequence[str]) -> list[str]:
    """Classes by their names; prompts as they are."""
    return [
        item if isinstance(item, str) else short_name(teacher.class_names[item]) for item in wanted
    ]


def draw_comparison(
    student: Student,
    teacher_steps: Sequence[int],
    wanted: Sequence[int] | Sequence[str],
    folder: Path,
) -> None:
    """The same conditions by the teacher at several step counts, and by the student at one."""
    target, wanted = Target(student.teacher, student), wanted[:MOST_IMAGES]
    samplers = {
        f"teacher-{steps}": SamplerSpec(teacher=True, steps=steps, seed=PREVIEW_SEED)
        for steps in teacher_steps
    }
    samplers["student-1"] = SamplerSpec(seed=PREVIEW_SEED)
    about = {
        "dimo.version": __version__,
        "dimo.conditions": json.dumps(condition_names(student.teacher, wanted)),
    }
    for name, sampler in samplers.items():
        pixels, protocol = sample_images(target, wanted, sampler)
        facts = {**about, "dimo.sampler": json.dumps(protocol, sort_keys=True)}
        picture = enlarge(grid(pixels, COLUMNS), SMALLEST_SIDE)
        save_png(picture, folder / "comparison" / f"{name}.png", facts)


def comparison(
    student: Student,
    spec: DistillSpec,
    meter: FidMeter,
    stage: Callable[[str, int], Callable[[int], None]],
) -> list[Score]:
    """The closing table: the teacher at several step counts, then the student at one."""
    samplers = [
        teacher_sampler(student.teacher, SamplerSpec(teacher=True, steps=steps))
        for steps in spec.monitor.teacher_steps
    ]
    samplers.append(student_sampler(student))
    images = spec.monitor.table_samples
    advance = stage("measure teacher and student", images * len(samplers))
    return [
        meter.measure(sampler, images=images, seed=FID_SEED, protocol=protocol, progress=advance)
        for sampler, protocol in samplers
    ]


def leave_report(folder: Path, view: View) -> Path | None:
    """Write the report of a finished run. If that fails, the run has not: it is only said."""
    from dimo_cli.reporting.page import write_report

    try:
        return write_report(folder, folder / "report.html")
    except Exception as error:
        view.note(f"The report could not be written: {type(error).__name__}: {error}")
        view.note(f"The run is complete; try again with `dimo report {folder}`.")
        return None
