"""A refinement run from student to better student: data, rewards and guards around the trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dimo_cli.console.live import View
from dimo_cli.data.shards import builtin_dataset, read_index
from dimo_cli.distributed.ranks import as_first_says, first_ahead, is_first, joined_ranks
from dimo_cli.engine.objectives.reward import Rewards
from dimo_cli.engine.refine import Refinement
from dimo_cli.errors import MissingError, NotFinite, SpecError
from dimo_cli.files.locking import refuse_if_locked
from dimo_cli.hub.published import StateDict
from dimo_cli.hub.store import HubStore
from dimo_cli.rewards.protocol import Reward
from dimo_cli.rewards.registry import check_reward, load_rewards
from dimo_cli.run_folder.alarms import told
from dimo_cli.run_folder.checkpoints import read_contents, spec_of
from dimo_cli.runs.distill import (
    RunResult,
    check_measurable_run,
    commit_of_teacher,
    run_method,
)
from dimo_cli.runs.prompts import attach_prompts, with_commits
from dimo_cli.runs.supplies import LabeledTokens, images_of, supplies_of
from dimo_cli.runs.watcher import RunWatcher
from dimo_cli.sampling.previews import preview_conditions
from dimo_cli.sampling.samplers import draw_images
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.lora import LoraSpec
from dimo_cli.specs.manifest import steps_in_words
from dimo_cli.specs.refine import FROM_TEACHER, RefineSpec, reward_names
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.published import open_student, with_commit
from dimo_cli.students.student import LoadOptions, Student
from dimo_cli.students.target import Target
from dimo_cli.teachers.conditioning import PromptConditioner
from dimo_cli.teachers.protocol import Backbone, Teacher
from dimo_cli.teachers.registry import configured, load_skeleton, load_whole
from dimo_cli.training.accelerator import make_accelerator
from dimo_cli.training.checkpoint import CheckpointFolder
from dimo_cli.training.guard import Guard

HACKING = "reward_hacking"
HELD_OUT = "held_out_reward"  # its name in the log
GUARD_SEED = 31
PREVIEW_PROMPTS, SCORED_AT_ONCE = 400, 16


def real_tokens(spec: RefineSpec, teacher: Teacher) -> LabeledTokens | None:
    """The real images that a run is held against."""
    if not spec.gan.enabled:
        return None
    return images_of(spec.gan.data, teacher, "gan.data")


def scored(reward: Reward) -> Any:
    """A reward as a function of images and their prompts."""
    return lambda images, texts: reward(images, reward.prepare(texts))


class RefineWatcher(RunWatcher):
    """Also looks for what training for a reward can spoil."""

    def __init__(
        self, spec: RefineSpec, teacher: Teacher, folder: Path, view: View, held_out: Reward | None
    ) -> None:
        super().__init__(spec, teacher, folder, view)
        self.reward, self.held_out = spec.reward, held_out
        self.guard = Guard(spec.reward.patience, spec.reward.tolerance, rising=(HELD_OUT,))

    def looks_at(self, step: int) -> bool:
        return bool(self.reward.terms) and step % self.reward.watch_every == 0

    def look(self, step: int, student: Backbone) -> dict[str, float]:
        try:
            numbers = self.measure(student)
        except NotFinite as problem:
            self.on_note(f"Not looked at in step {step}: {problem.message}")
            return {}
        self.guard.see(step, numbers)
        if self.guard.suspicion is None:
            self.alarms.active.pop(HACKING, None)
            return numbers
        is_new = HACKING not in self.alarms.active
        self.alarms.active[HACKING] = self.guard.suspicion
        if is_new:
            self.on_note(told(HACKING, self.guard.suspicion))
        return numbers

    def should_stop(self) -> str | None:
        return super().should_stop() or self.guard.reason

    def state(self) -> dict[str, Any]:
        return self.guard.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.guard.load_state(state)

    def measure(self, student: Backbone) -> dict[str, float]:
        """Held-out reward and diversity of images for the same prompts every time."""
        wanted = preview_conditions(self.teacher, max(1, self.reward.watch_images // 4))
        prompts = [str(prompt) for prompt in wanted for _ in range(4)]
        target = Target(self.teacher, self.as_student(student))
        images, _ = draw_images(target, prompts, SamplerSpec(seed=GUARD_SEED))
        seen = {"diversity": diversity(images, groups_of=4)}
        if self.held_out is not None:
            with torch.inference_mode():
                scores = [
                    self.held_out(part.to(target.device), self.held_out.prepare(texts))
                    for part, texts in in_parts(images, prompts)
                ]
            seen[HELD_OUT] = float(torch.cat(scores).mean())
        return seen


def in_parts(images: Tensor, prompts: list[str]) -> list[tuple[Tensor, list[str]]]:
    """Images and their prompts, a few at a time."""
    starts = range(0, len(prompts), SCORED_AT_ONCE)
    return [(images[i : i + SCORED_AT_ONCE], prompts[i : i + SCORED_AT_ONCE]) for i in starts]


def diversity(images: Tensor, groups_of: int) -> float:
    """Mean distance between the images of one prompt, seen at 8 x 8 pixels."""
    small = torch.nn.functional.adaptive_avg_pool2d(images.float(), 8).flatten(1)
    groups = small.view(-1, groups_of, small.shape[1])
    distances = torch.cdist(groups, groups)
    return float(distances.sum() / (len(groups) * groups_of * (groups_of - 1)))


@joined_ranks()
def refine(
    spec: RefineSpec,
    folder: Path,
    view: View,
    resume: bool = False,
    origins: Mapping[str, str] | None = None,
) -> RunResult | None:
    """Refine the student that the spec starts from; the result is a run folder like any other.

    Of several processes only the first one has a result.
    """
    check_refinable(spec)
    if is_first():
        refuse_if_locked(folder)
        spec = with_commits(spec if resume else at_commit(spec, view), view.note)
    spec = as_first_says(spec)
    commit = commit_of_teacher(folder, spec.teacher, resume)
    device = make_accelerator(spec.train).device
    with first_ahead():
        spec, teacher, start = starting_networks(spec, view, device, commit)
    watcher, method = refining(spec, teacher, start, folder, view)
    return run_method(spec, teacher, folder, watcher, resume, origins, method)


def refining(
    spec: RefineSpec, teacher: Teacher, start: Backbone, folder: Path, view: View
) -> tuple[RefineWatcher, Callable[..., Refinement]]:
    """Who looks on while a student is refined, and what is trained; the teacher gets its prompts.

    `start` has the student's weights.
    """
    device = make_accelerator(spec.train).device
    data = real_tokens(spec, teacher)
    store = HubStore(
        local_dir=Path(spec.teacher.local_dir) if spec.teacher.local_dir else None, say=view.note
    )
    held_out = spec.reward.held_out
    with first_ahead():
        if data is None or not data.dataset.has_captions:
            attach_prompts(teacher, spec, view.note)
        elif isinstance(teacher.conditioner, PromptConditioner):
            teacher.conditioner.dataset = data.dataset.first_captions(PREVIEW_PROMPTS)
        models = load_rewards(reward_names(spec), store, device)
    rewards: Rewards = {
        name: (scored(models[name]), weight) for name, weight in spec.reward.terms.items()
    }
    watcher = RefineWatcher(spec, teacher, folder, view, models[held_out] if held_out else None)
    start = start.to("cpu")  # its weights are copied once, and not needed again
    auxiliary = starting_auxiliary(spec)
    supplies = supplies_of(spec, teacher, view.note) if spec.distill_weight else None
    return watcher, partial(
        Refinement,
        start=start,
        data=data,
        rewards=rewards,
        auxiliary=auxiliary,
        supplies=supplies,
    )


def check_refinable(spec: RefineSpec) -> None:
    """Refuse what would only fail once everything is downloaded."""
    check_measurable_run(spec)
    if spec.start is None:
        raise SpecError("`start` is not set: there is no student to refine.")
    names = reward_names(spec)
    for name in names:
        check_reward(name)
    if names and not load_skeleton(spec.teacher).takes_prompts:
        raise SpecError(
            f"Rewards read prompts, and `{spec.teacher.name}` takes classes.",
            "Refine it with `--gan`.",
        )
    if spec.gan.enabled and spec.gan.data is not None:
        read_index(Path(spec.gan.data))
    elif spec.gan.enabled:
        builtin_dataset(spec.teacher.name)


def starting_auxiliary(spec: RefineSpec) -> StateDict | None:
    """The weights of the auxiliary of the run that the student is from; None: the teacher's."""
    if spec.auxiliary.start == "teacher":
        return None
    checkpoints = CheckpointFolder(Path(str(spec.start)) / "checkpoints")
    steps = checkpoints.steps()
    path = checkpoints.path(steps[-1]) / "auxiliary.safetensors" if steps else None
    if path is None or not path.is_file():
        raise MissingError(
            f"`auxiliary.start` is run, and `{spec.start}` is no run folder with a checkpoint "
            "of an auxiliary.",
            "Start from a run folder, or set `auxiliary.start=teacher`.",
        )
    check_same_adapters(spec, path.parent)
    return load_file(path)


def check_same_adapters(spec: RefineSpec, checkpoint: Path) -> None:
    """Refuse an auxiliary with other adapters than those that are to go on from it."""
    before = spec_of(read_contents(checkpoint), checkpoint)
    had, wanted = (before or DistillSpec()).auxiliary_lora, spec.auxiliary_lora
    if had != wanted and (had.rank or wanted.rank):
        alpha = f" auxiliary.lora.alpha={had.alpha:g}" if had.alpha is not None else ""
        raise SpecError(
            f"`auxiliary.start` is run, whose auxiliary has {told_of(had)}, and here it is to have "
            f"{told_of(wanted)}.",
            f"Set `auxiliary.lora.rank={had.rank}{alpha}` and the same targets, or "
            "`auxiliary.start=teacher`.",
        )


def told_of(lora: LoraSpec) -> str:
    """Adapters in a few words."""
    if not lora.rank:
        return "no adapters"
    return f"adapters of rank {lora.rank} (scale {lora.scale:g}) at {', '.join(lora.targets)}"


def at_commit(spec: RefineSpec, view: View) -> RefineSpec:
    """The spec with a student of the Hub by its commit, so that a run goes on from the same."""
    if spec.start == FROM_TEACHER:
        return spec
    options = LoadOptions(local_dir=spec.teacher.local_dir, say=view.note)
    return spec.model_copy(update={"start": with_commit(str(spec.start), options)})


def starting_networks(
    spec: RefineSpec, view: View, device: torch.device, commit: str | None = None
) -> tuple[RefineSpec, Teacher, Backbone]:
    """The teacher, the backbone whose weights the student starts from, and a spec of its steps.

    `commit` is what a run that goes on has its teacher at.
    """
    if spec.start == FROM_TEACHER:
        teacher = load_whole(spec.teacher, view.note, commit)
        return spec, teacher, teacher.backbone
    student = starting_student(spec, view, device, commit)
    spec = with_its_steps(spec, student.manifest.step_counts)
    return spec, configured(student.teacher, spec.teacher), student.backbone


def with_its_steps(spec: RefineSpec, counts: tuple[int, ...]) -> RefineSpec:
    """A refinement of a student keeps the steps that the student takes."""
    asked = spec.student.steps
    if asked == counts:
        return spec
    if not spec.student.in_one_step:
        raise SpecError(
            f"`student.steps` is {list(asked)}, and `{spec.start}` draws in "
            f"{steps_in_words(counts)}.",
            "Leave it out: a refinement keeps the student's own steps.",
        )
    values = spec.model_dump()
    values["student"]["steps"] = counts
    return RefineSpec.model_validate(values)


def starting_student(
    spec: RefineSpec, view: View, device: torch.device, commit: str | None = None
) -> Student:
    """The student to refine, with its teacher's backbone beside it."""
    options = LoadOptions(
        with_teacher=True,
        local_dir=spec.teacher.local_dir,
        say=view.note,
        device=device,
        revision=spec.teacher.revision,
        commit=commit,
    )
    student = open_student(str(spec.start), options)
    facts, wanted = student.manifest.teacher, spec.teacher
    if (facts.name, facts.architecture) != (wanted.name, wanted.architecture):
        raise MissingError(
            f"`{spec.start}` is a student of `{facts.name}`, and the spec is for `{wanted.name}` "
            "or for another architecture of it.",
            f"Use `--preset {facts.name}`, or leave the preset out.",
        )
    if wanted.revision not in (None, facts.revision):
        raise SpecError(
            f"`teacher.revision` is {wanted.revision}, but the student is of {facts.revision}.",
            "Leave it out.",
        )
    stored = facts.weights or "fp32"
    if student.manifest.lora is not None and stored != wanted.weights:
        raise SpecError(
            f"`teacher.weights` is {wanted.weights}, and the adapters of `{spec.start}` were "
            f"trained over weights in {stored}: they fit no others.",
            f"Set `teacher.weights={stored}`.",
        )
    return student
