"""What the trials on `shapes` share: fresh prompts, the student that ships, and verdicts."""

from __future__ import annotations

from functools import cache

from benchmarks.soft_dimo.measuring import in_turn, judged
from benchmarks.soft_dimo.trials import packed
from dimo_cli.metrics.shapes import Task, benchmark, is_true
from dimo_cli.sampling.samplers import draw_images, to_pixels
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.published import open_student
from dimo_cli.students.student import LoadOptions, Student
from dimo_cli.students.target import Target

PER_TASK, FRESH = 200, 17  # prompts of each of the six tasks, and a seed that nothing was tuned on
WEAK, STRONG, WATCHING = "shapes_clip", "shapes_preference", "shapes_witness"
TEACHER_FILES = (
    "shapes_backbone.safetensors",
    "shapes_text.safetensors",
    "shapes_tokenizer.safetensors",
)
STUDENT_FILES = (*TEACHER_FILES, "shapes-student/model.safetensors")
JUDGE_FILES = tuple(f"{name}.safetensors" for name in (WEAK, STRONG, WATCHING))


@cache
def tasks() -> list[Task]:
    """The 1,200 prompts, in an order in which every part of them has all tasks."""
    return in_turn(benchmark(PER_TASK, FRESH), PER_TASK, 6)


@cache
def unrefined() -> Student:
    """The student that ships, as Di[M]O made it."""
    return open_student("shapes", LoadOptions(with_teacher=True))


def captions() -> list[str]:
    """What the tasks say."""
    return [task.prompt for task in tasks()]


def verdicts_of(target: Target, prompts: list[Task], spec: SamplerSpec) -> dict[str, object]:
    """What the verifier and the judges say of one image of each prompt."""
    said = [task.prompt for task in prompts]
    images, _ = draw_images(target, said, spec)
    pixels = to_pixels(images)
    return {
        "true": packed([is_true(task.scene, p) for task, p in zip(prompts, pixels, strict=True)]),
        **{name: judged(images, said, name) for name in (WEAK, STRONG, WATCHING)},
    }
