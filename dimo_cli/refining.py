"""A refinement run from student to better student: data, rewards and guards around the trainer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dimo_cli.console.live import View
from dimo_cli.data.shards import TokenDataset, builtin_dataset
from dimo_cli.engine.guard import Guard
from dimo_cli.engine.refine import RealTokens, Refinement, Rewards
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.hub import HubStore
from dimo_cli.published_students import open_student
from dimo_cli.rewards.protocol import Reward
from dimo_cli.rewards.registry import load_reward
from dimo_cli.runs import (
    RunResult,
    RunWatcher,
    attach_prompts,
    carry_out,
    check_measurable_run,
    preview_conditions,
)
from dimo_cli.samplers import condition
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.students import LoadOptions, Student
from dimo_cli.teachers.protocol import Backbone, Cond, Teacher

GUARD_SEED = 31


class LabeledTokens:
    """A dataset of tokens with labels or captions, as the engine draws from it."""

    def __init__(self, dataset: TokenDataset, teacher: Teacher) -> None:
        self.dataset, self.teacher = dataset, teacher

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Cond]:
        tokens, wanted = self.dataset.draw(count, generator)
        wanted = wanted.tolist() if isinstance(wanted, Tensor) else wanted
        return tokens.to(generator.device), condition(self.teacher, wanted).to(generator.device)


def real_tokens(spec: RefineSpec, teacher: Teacher) -> RealTokens | None:
    """The real images that a run is held against."""
    if not spec.gan.enabled:
        return None
    if spec.gan.data is None:
        return LabeledTokens(builtin_dataset(teacher.name), teacher)
    return LabeledTokens(TokenDataset.open(Path(spec.gan.data), teacher), teacher)


def load_rewards(
    names: Sequence[str], teacher: Teacher, store: HubStore, device: torch.device
) -> dict[str, Reward]:
    """Reward models by name, ready to be differentiated."""
    if names and not teacher.takes_prompts:
        raise SpecError(
            f"Rewards read prompts, and `{teacher.name}` takes classes.",
            "Refine it with `--gan`.",
        )
    rewards = {name: load_reward(name, store, device) for name in names}
    for reward in rewards.values():
        reward.gradient_checkpointing = True
    return rewards


def scored(reward: Reward) -> Any:
    """A reward as a function of images and their prompts."""
    return lambda images, texts: reward(images, reward.prepare(texts))


class RefineWatcher(RunWatcher):
    """Also looks for what training for a reward can spoil."""

    def __init__(
        self, spec: RefineSpec, teacher: Teacher, folder: Path, view: View, held_out: Reward | None
    ) -> None:
        super().__init__(spec, teacher, folder, view)
        self.reward = spec.reward
        self.guard = Guard(spec.reward.patience, spec.reward.tolerance)
        self.held_out = held_out

    def should_stop(self, step: int, student: Backbone) -> str | None:
        if not self.reward.terms or step % self.reward.watch_every:
            return None
        return self.guard.see(step, self.look(student))

    def look(self, student: Backbone) -> dict[str, float]:
        """Held-out reward and diversity of images for the same prompts every time."""
        wanted = preview_conditions(self.teacher, max(1, self.reward.watch_images // 4))
        device = next(student.parameters()).device
        prompts = [str(prompt) for prompt in wanted for _ in range(4)]
        cond = self.teacher.conditioner.prompts(prompts).to(device)
        generator = torch.Generator(device).manual_seed(GUARD_SEED)
        images = self.as_student(student).sample(cond, generator)
        seen = {"diversity": diversity(images, groups_of=4)}
        if self.held_out is not None:
            with torch.inference_mode():
                text = self.held_out.prepare(cond.texts)
                seen["held_out_reward"] = float(self.held_out(images, text).mean())
        return seen


def diversity(images: Tensor, groups_of: int) -> float:
    """Mean distance between the images of one prompt, seen at 8 x 8 pixels."""
    small = torch.nn.functional.adaptive_avg_pool2d(images.float(), 8).flatten(1)
    groups = small.view(-1, groups_of, small.shape[1])
    distances = torch.cdist(groups, groups)
    return float(distances.sum() / (len(groups) * groups_of * (groups_of - 1)))


def refine(spec: RefineSpec, folder: Path, view: View, resume: bool = False) -> RunResult:
    """Refine the student that the spec starts from; the result is a run folder like any other."""
    check_measurable_run(spec)
    student = starting_student(spec, view)
    teacher = student.teacher
    if teacher.takes_prompts and not (spec.gan.enabled and spec.condition.prompts is None):
        attach_prompts(teacher, spec)
    data = real_tokens(spec, teacher)
    store = HubStore(
        local_dir=Path(spec.teacher.local_dir) if spec.teacher.local_dir else None, say=view.note
    )
    held_out = spec.reward.held_out
    names = [*spec.reward.terms, *([held_out] if held_out else [])]
    models = load_rewards(names, teacher, store, next(student.backbone.parameters()).device)
    rewards: Rewards = {
        name: (scored(models[name]), weight) for name, weight in spec.reward.terms.items()
    }
    watcher = RefineWatcher(spec, teacher, folder, view, models[held_out] if held_out else None)
    method = partial(Refinement, start=student.backbone, data=data, rewards=rewards)
    return carry_out(spec, teacher, folder, watcher, resume, method)


def starting_student(spec: RefineSpec, view: View) -> Student:
    """The student to refine, with its teacher's backbone beside it."""
    if spec.start is None:
        raise SpecError("`start` is not set: there is no student to refine.")
    options = LoadOptions(with_teacher=True, local_dir=spec.teacher.local_dir, say=view.note)
    student = open_student(spec.start, options)
    if student.teacher.name != spec.teacher.name:
        raise MissingError(
            f"`{spec.start}` is a student of `{student.teacher.name}`, not of "
            f"`{spec.teacher.name}`.",
            f"Use `--preset {student.teacher.name}`, or leave the preset out.",
        )
    return student
