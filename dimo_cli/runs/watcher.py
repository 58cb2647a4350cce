"""What is drawn and measured while a run trains."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from dimo_cli import __version__
from dimo_cli.console.live import View
from dimo_cli.distributed.ranks import is_first
from dimo_cli.errors import NotFinite
from dimo_cli.evaluation.yardstick import Yardstick
from dimo_cli.files.png import Pixels, enlarge, save_png
from dimo_cli.redacting import without_secrets
from dimo_cli.run_folder.alarms import Alarms, told
from dimo_cli.run_folder.log import records_of
from dimo_cli.run_folder.origins import NOTES
from dimo_cli.sampling.previews import condition_names, preview_conditions, preview_grid
from dimo_cli.sampling.samplers import student_sampler
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.students.folder import describe_run
from dimo_cli.students.student import Student
from dimo_cli.teachers.protocol import Backbone, Teacher
from dimo_cli.training.accelerator import make_accelerator
from dimo_cli.training.watcher import Idle


class RunWatcher(Idle):
    """Draws the previews and measures what the trainer asks for."""

    def __init__(self, spec: DistillSpec, teacher: Teacher, folder: Path, view: View) -> None:
        self.spec, self.teacher, self.folder, self.view = spec, teacher, folder, view
        self.yardstick: Yardstick | None = None
        if spec.monitor.measures and is_first():
            device = make_accelerator(spec.train).device  # the teacher is there only later
            self.yardstick = Yardstick(spec, teacher, device, view.note)
        self.first_step: int | None = None
        self.alarms = Alarms(from_teacher=not isinstance(spec, RefineSpec))

    def on_start(self, step: int) -> None:
        self.first_step = step
        for record in records_of(self.folder / "log.jsonl"):  # of a run that goes on
            self.alarms.see(record)
        self.view.start(step, self.spec.train.steps)

    def on_step(self, step: int) -> None:
        self.view.step(step)

    def on_log(self, record: dict[str, Any]) -> None:
        for name in self.alarms.see(record):
            self.on_note(told(name, self.alarms.active[name]))
        self.view.log({**record, "alarms": dict(self.alarms.active)})

    def on_checkpoint(self, step: int, folder: Path) -> None:
        self.view.checkpoint(step, folder)

    def should_pause(self) -> bool:
        return self.view.is_leaving()

    def should_stop(self) -> str | None:
        if (name := self.stopped_on()) is None:
            return None
        return f"Stopped, as `monitor.stop_on` has {name}."

    def stopped_on(self) -> str | None:
        """The alarm that ends the run, if one does."""
        return next(
            (name for name in self.alarms.active if name in self.spec.monitor.stop_on), None
        )

    def on_note(self, message: str) -> None:
        message = without_secrets(message)
        self.view.note(message)
        with (self.folder / NOTES).open("a", encoding="utf-8") as file:
            file.write(f"{message}\n")

    def on_preview(self, step: int, student: Backbone) -> Pixels | None:
        try:
            pixels = self.preview(student)
        except NotFinite as problem:  # the trainer finds out whether it heals
            self.on_note(f"No preview of step {step}: {problem.message}")
            return None
        self.view.preview(step, pixels)
        path, large = self.folder / "samples" / f"step-{step:06d}.png", enlarge(pixels, 320)
        save_png(large, path, {**self.about_preview(), "dimo.step": str(step)})
        return large

    def preview(self, student: Backbone) -> Pixels:
        """The same conditions and seed every time, so that previews can be compared."""
        return preview_grid(self.as_student(student), self.conditions())

    def conditions(self) -> list[int] | list[str]:
        """What a preview shows."""
        return preview_conditions(self.teacher, self.spec.monitor.preview_images)

    def about_preview(self) -> dict[str, str]:
        """What the file of a preview says: version, and the class or prompt of each image."""
        names = condition_names(self.teacher, self.conditions())
        return {"dimo.version": __version__, "dimo.conditions": json.dumps(names)}

    def measure_metric(self, step: int, student: Backbone) -> float:
        assert self.yardstick is not None
        sampler, protocol = student_sampler(self.as_student(student))
        images = self.spec.monitor.fid_samples
        try:
            return self.yardstick.measure(sampler, images=images, protocol=protocol).value
        except NotFinite as problem:
            self.on_note(f"Not measured at step {step}: {problem.message}")
            return math.nan

    def as_student(self, backbone: Backbone) -> Student:
        """The averaged network as a student, though it is not on disk yet."""
        return Student(describe_run(self.spec, self.teacher, "0" * 64), self.teacher, backbone)
