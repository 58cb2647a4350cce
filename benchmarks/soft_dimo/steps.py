"""The one-step student against its teacher, at matched temperatures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.soft_dimo.measuring import SEEDS, diversity_of
from benchmarks.soft_dimo.shapes import (
    JUDGE_FILES,
    STUDENT_FILES,
    captions,
    tasks,
    unrefined,
    verdicts_of,
)
from benchmarks.soft_dimo.trials import Trial
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.target import Target

TEMPERATURES = (1.0, 0.7, 0.5, 0.3)
TEACHER_STEPS = (1, 2, 4, 8, 16)


def trials() -> list[Trial]:
    """Student and teacher at every temperature; at 1 with three seeds."""
    found = []
    for temperature in TEMPERATURES:
        for seed in SEEDS if temperature == 1 else SEEDS[:1]:
            settings = {"temperature": temperature, "seed": seed, "prompts": len(tasks())}
            found.append(
                Trial(
                    "steps",
                    f"student-T{temperature}-{seed}",
                    settings,
                    partial(by_student, temperature, seed),
                    (*STUDENT_FILES, *JUDGE_FILES),
                )
            )
            found += [
                Trial(
                    "steps",
                    f"teacher-{steps}-T{temperature}-{seed}",
                    {**settings, "steps": steps},
                    partial(by_teacher, temperature, seed, steps),
                    (*STUDENT_FILES, *JUDGE_FILES),
                )
                for steps in TEACHER_STEPS
            ]
    return found


def by_student(temperature: float, seed: int, folder: Path) -> dict[str, Any]:
    """Verdicts on the student that ships, and how its images of one prompt differ."""
    student = unrefined()
    spec = SamplerSpec(seed=seed, temperature=temperature)
    found = verdicts_of(Target(student.teacher, student), tasks(), spec)
    return {**found, "diversity": diversity_of(student, captions(), temperature, seed)}


def by_teacher(temperature: float, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """Verdicts on its teacher."""
    spec = SamplerSpec(teacher=True, steps=steps, seed=seed, temperature=temperature)
    return verdicts_of(Target(unrefined().teacher), tasks(), spec)
