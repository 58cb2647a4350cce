"""What trials of every world share: seeds, judges, diversity, and refined students."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch

from dimo_cli.console.live import PlainView
from dimo_cli.hub.store import HubStore
from dimo_cli.rewards.protocol import Reward
from dimo_cli.rewards.registry import load_reward
from dimo_cli.runs.refine import diversity, refine
from dimo_cli.sampling.samplers import draw_images
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.published import open_student
from dimo_cli.students.student import LoadOptions, Student
from dimo_cli.students.target import Target

T = TypeVar("T")
SEEDS = (0, 1, 2)
VARIED, IMAGES_EACH = 100, 4  # prompts whose images are compared among themselves


def in_turn(asked: Sequence[T], each: int, kinds: int) -> list[T]:
    """One prompt of each task, then the next of each, of those that come task by task."""
    return [asked[kind * each + n] for n in range(each) for kind in range(kinds)]


@cache
def judge(name: str) -> Reward:
    """A reward that ships in the package: nothing is asked of the Hub."""
    return load_reward(name, HubStore())


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


def refined(folder: Path, sets: list[str], preset: str) -> Student:
    """The student of a refinement run, which is carried out as far as it is not done yet."""
    spec = resolve_spec(RefineSpec, preset=preset, sets=sets, environment={}).spec
    if not (folder / "summary.json").is_file():
        refine(spec, folder, PlainView(print, seconds=60), resume=(folder / "run.yaml").is_file())
    return open_student(folder, LoadOptions(with_teacher=True))
