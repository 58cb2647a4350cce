"""What a run is to be: from a student that is to be refined to the values it brings along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dimo_cli.errors import SpecError
from dimo_cli.specs.refine import FROM_TEACHER
from dimo_cli.specs.resolve import refine_preset_names
from dimo_cli.students.names import pinned
from dimo_cli.students.published import look_at_student


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a refinement starts from."""

    student: str
    """Its name, with a step in place of `best` and `last`."""
    preset: str | None
    brought: dict[str, Any]
    """Values of the spec that the student says."""

    @property
    def base(self) -> tuple[str, dict[str, Any]]:
        """Those values with their origin."""
        return f"student {self.student}", self.brought


def begin_refinement(
    student: str, preset: str | None, has_file: bool, gan: bool, reward: bool
) -> Beginning:
    """Look at a student, and choose the preset where neither one nor a spec file is given."""
    if not (gan or reward or preset or has_file):
        raise SpecError(
            "Say how to refine: `--gan`, `--reward NAME=WEIGHT`, or a preset.",
            f"Presets: {', '.join(refine_preset_names())}.",
        )
    student = pinned(student)  # of a run that goes on, `best` may mean another one tomorrow
    if student == FROM_TEACHER:
        return without_student(preset, has_file)
    manifest = look_at_student(student)
    teacher = manifest.teacher.name
    if preset is None and not has_file:
        wanted = f"{teacher}-{'reward' if reward and not gan else 'gan'}"
        preset = wanted if wanted in refine_preset_names() else teacher
    own: dict[str, Any] = {"temperature": manifest.temperature}
    if manifest.steps:
        own["steps"] = list(manifest.steps)
    brought = {
        "teacher": {"name": teacher, "architecture": dict(manifest.teacher.architecture)},
        "init": manifest.init.model_dump(),
        "student": own | ({"latent": True} if manifest.latent else {}),
    }
    return Beginning(student, preset, brought)


def without_student(preset: str | None, has_file: bool) -> Beginning:
    """A refinement of the teacher itself, which a preset or a spec file has to name."""
    if preset is None and not has_file:
        raise SpecError(
            "A refinement that starts from the teacher has to know which one.",
            f"Add `--preset NAME`: {', '.join(refine_preset_names())}.",
        )
    return Beginning(FROM_TEACHER, preset, {})
