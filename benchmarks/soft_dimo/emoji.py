"""Both refinements on `emoji`, whose student leaves a GAN and a reward something to gain.

All arms start from the student that ships. `none` is the same training without what an arm adds,
the fair control; the reader that says what is true gives no gradient to any of them.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.soft_dimo.measuring import SEEDS, diversity_of, in_turn, judged, refined
from benchmarks.soft_dimo.trials import Trial, packed
from dimo_cli.evaluation.evaluate import evaluate
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.emoji import TASKS, Task, benchmark, right_of
from dimo_cli.metrics.emoji_reader import load_emoji
from dimo_cli.sampling.samplers import draw_images, to_bytes
from dimo_cli.specs.checkpoint import settings_hash
from dimo_cli.specs.evaluate import EvalSpec
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.published import open_student
from dimo_cli.students.student import LoadOptions, Student
from dimo_cli.students.target import Target

START = "emoji"
PER_TASK, FRESH = 240, 17  # prompts of each of the five tasks, and a seed nothing was tuned on
PROMPTS = PER_TASK * len(TASKS)
TEMPERATURE = 1.0
IMAGES, SAMPLED = 2500, 20_000  # images behind an FID, and the first of their seeds
TEACHER_STEPS = (1, 4, 16)
STEPS = {"reward": 300, "gan": 300}
TRAINED_FOR, WATCHING = "emoji_preference", "emoji_clip"
FILES = tuple(
    f"emoji_{name}.safetensors"
    for name in ("backbone", "text", "tokenizer", "features", "clip", "preference", "reference")
)
READ = (*FILES, "emoji_data.safetensors", "emoji-student/model.safetensors")
ARMS: dict[str, tuple[str, ...]] = {
    "reward-soft": (),
    "gan-soft": (),
    "reward-none": ("reward.weight=1e-6",),
    "gan-none": ("gan.enabled=false",),
    "reward-gumbel": ("relax.kind=gumbel_st",),
    "gan-gumbel": ("relax.kind=gumbel_st",),
    "reward-alone": ("distill_weight=0",),
    "gan-alone": ("distill_weight=0", "gan.weight=100"),
}
"""A refinement and what it has of its own. `alone` is without the Di[M]O term."""


def trials() -> list[Trial]:
    """Where all start, what each claim needs of every seed, and the teacher at the same seeds."""
    found = [Trial("emoji", f"before-{s}", settings(s), partial(before, s), READ) for s in SEEDS]
    found += [by_arm(name, seed) for name in ARMS for seed in SEEDS]
    return found + [by_teacher(steps, seed) for steps in TEACHER_STEPS for seed in SEEDS]


def settings(seed: int) -> dict[str, Any]:
    """What all trials have in common."""
    return {"start": START, "seed": seed, "temperature": TEMPERATURE, "images": IMAGES}


def by_arm(name: str, seed: int) -> Trial:
    """The trial of an arm; the seed is that of the training and of the images."""
    kind = kind_of(name)
    asked = {
        **settings(seed),
        "sets": list(ARMS[name]),
        "steps": STEPS[kind],
        "recipe": recipe_of(kind),
    }
    return Trial("emoji", f"{name}-{seed}", asked, partial(by_refining, name, seed), READ)


def by_teacher(steps: int, seed: int) -> Trial:
    """The trial of the teacher in so many steps."""
    asked = {"steps": steps, **settings(seed)}
    return Trial("emoji", f"teacher-{steps}-{seed}", asked, partial(teacher, steps, seed), READ)


@cache
def recipe_of(kind: str) -> str:
    """What tells a preset from one with other settings."""
    preset = resolve_spec(RefineSpec, preset=f"emoji-{kind}", environment={}).spec
    return settings_hash(preset.model_dump(mode="json"))[:16]


def kind_of(arm: str) -> str:
    """`reward` or `gan`: which preset an arm is of."""
    return arm.partition("-")[0]


def before(seed: int, folder: Path) -> dict[str, Any]:
    """The student that all arms start from."""
    return measured(START, seed)


def by_refining(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """One arm, never stopped early: what a guard would have ended is to be seen."""
    kind, run = kind_of(name), folder / "run"
    sets = [
        f"start={START}",
        f"train.seed={seed}",
        f"train.steps={STEPS[kind]}",
        f"student.temperature={TEMPERATURE}",
        "monitor.fid_every=0",
        "monitor.preview_every=100000",
    ]
    if kind == "reward":
        sets.append("reward.patience=1000")
    refined(run, [*sets, *ARMS[name]], f"emoji-{kind}")
    return measured(str(run), seed)


def measured(target: str, seed: int) -> dict[str, Any]:
    """What the reader and the judges say of a student, its FID and its diversity."""
    student: Student = open_student(target, LoadOptions(with_teacher=True))
    spec = SamplerSpec(seed=seed, temperature=TEMPERATURE)
    return {
        **verdicts(Target(student.teacher, student), spec),
        "diversity": diversity_of(student, captions(), TEMPERATURE, seed),
        **distances(target, SamplerSpec(seed=SAMPLED + seed, temperature=TEMPERATURE)),
    }


def teacher(steps: int, seed: int, folder: Path) -> dict[str, Any]:
    """The teacher in so many steps, at the same temperature, on the same prompts."""
    drawn_by = open_student(START, LoadOptions(with_teacher=True)).teacher
    spec = SamplerSpec(teacher=True, steps=steps, seed=seed, temperature=TEMPERATURE)
    return verdicts(Target(drawn_by), spec)


@cache
def tasks() -> list[Task]:
    """The 1,200 prompts, in an order in which every part of them has all tasks."""
    found = benchmark(PER_TASK, FRESH)  # those of what was held out come last, and stay out
    return in_turn(found, PER_TASK, len(TASKS))


def captions() -> list[str]:
    """What the tasks say."""
    return [task.prompt for task in tasks()]


def verdicts(target: Target, spec: SamplerSpec) -> dict[str, Any]:
    """Of one image of each prompt: whether all that was said is right, and the thing alone."""
    said = captions()
    images, _ = draw_images(target, said, spec)
    looks = load_emoji().looks(to_bytes(images))
    right = [right_of(task.scene, seen) for task, seen in zip(tasks(), looks, strict=True)]
    return {
        "true": packed([all(facts.values()) for facts in right]),
        "name": packed([facts["name"] for facts in right]),
        **{name: judged(images, said, name) for name in (TRAINED_FOR, WATCHING)},
    }


def distances(target: str, spec: SamplerSpec) -> dict[str, float]:
    """FID, precision and recall against other pictures than the GAN is shown."""
    asked = EvalSpec(target=target, metrics=("fid", "pr"), samples=IMAGES, sampler=spec)
    values = evaluate(asked, HubStore(), use_cache=False).document()["values"]
    return {name: round(float(value), 5) for name, value in values.items()}
