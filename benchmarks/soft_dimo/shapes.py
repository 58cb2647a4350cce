"""What all trials on `shapes` share: fresh prompts, verdicts, judges and refined students."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch

from benchmarks.soft_dimo.trials import packed
from dimo_cli.console.live import PlainView
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.shapes import Task, benchmark, is_true
from dimo_cli.rewards.protocol import Reward
from dimo_cli.rewards.registry import load_reward
from dimo_cli.runs.refine import diversity, refine
from dimo_cli.sampling.samplers import draw_images, to_pixels
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.published import open_student
from dimo_cli.students.student import LoadOptions, Student
from dimo_cli.students.target import Target

T = TypeVar("T")
PER_TASK, FRESH = 200, 17  # prompts of each of the six tasks, and a seed that nothing was tuned on
SEEDS = (0, 1, 2)
VARIED, IMAGES_EACH = 100, 4  # prompts whose images are compared among themselves
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


def in_turn(asked: Sequence[T], each: int, kinds: int) -> list[T]:
    """One prompt of each task, then the next of each, of those that come task by task."""
    return [asked[kind * each + n] for n in range(each) for kind in range(kinds)]


@cache
def judge(name: str) -> Reward:
    """A reward that ships in the package: nothing is asked of the Hub."""
    return load_reward(name, HubStore())


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


@torch.no_grad()  # a judge that is loaded in inference mode could give no gradient to TTEO
def judged(images: torch.Tensor, said: list[str], name: str) -> float:
    """The mean of a judge."""
    reward, scores = judge(name), []
    for first in range(0, len(said), 200):
        part = slice(first, first + 200)
        scores.append(reward(images[part], reward.prepare(said[part])))
    return round(float(torch.cat(scores).mean()), 4)


def diversity_of(student: Student, asked: list[str], temperature: float, seed: int) -> float:
    """How far images of one prompt are from each other, over the first of these prompts."""
    said = [prompt for prompt in asked[:VARIED] for _ in range(IMAGES_EACH)]
    spec = SamplerSpec(seed=1000 + seed, temperature=temperature)
    images, _ = draw_images(Target(student.teacher, student), said, spec)
    return round(diversity(images, IMAGES_EACH), 5)


def refined(folder: Path, sets: list[str], preset: str = "shapes-reward") -> Student:
    """The student of a refinement run, which is carried out as far as it is not done yet."""
    spec = resolve_spec(RefineSpec, preset=preset, sets=sets, environment={}).spec
    if not (folder / "summary.json").is_file():
        refine(spec, folder, PlainView(print, seconds=60), resume=(folder / "run.yaml").is_file())
    return open_student(folder, LoadOptions(with_teacher=True))
