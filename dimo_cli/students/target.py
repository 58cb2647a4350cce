"""What can be sampled, by one name: a student, or the teacher of a preset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.resolve import preset_names, resolve_spec
from dimo_cli.students.published import look_at_student, open_student
from dimo_cli.students.student import LoadOptions, Student, best_device
from dimo_cli.teachers.protocol import Teacher
from dimo_cli.teachers.registry import load_teacher


def is_preset(name: str) -> bool:
    """Whether a name stands for the teacher of a preset."""
    return name in preset_names() and not Path(name).expanduser().exists()


def check_target(name: str, only_teacher: bool) -> None:
    """Refuse what does not exist, before anything large is loaded."""
    if not (only_teacher and is_preset(name)):
        look_at_student(name)


def load_target(
    name: str, options: LoadOptions, only_teacher: bool, with_prompts: bool | None = None
) -> Target:
    """A run folder, student folder or Hub id; where only its teacher is asked for, also a preset.

    `with_prompts` is what `open_student` takes.
    """
    if only_teacher and is_preset(name):
        sets = [f"teacher.local_dir={options.local_dir}"] if options.local_dir else []
        source = resolve_spec(DistillSpec, preset=name, sets=sets).spec.teacher
        return Target(load_teacher(source, options.say).to(best_device()))
    student = open_student(name, options, with_prompts)
    return Target(student.teacher, student)


@dataclass(frozen=True)
class Target:
    """What is sampled: a student within its teacher's world, or the teacher alone."""

    teacher: Teacher
    student: Student | None = None

    @property
    def device(self) -> torch.device:
        """Where its networks are."""
        network = self.teacher.backbone if self.student is None else self.student.backbone
        return next(network.parameters()).device
