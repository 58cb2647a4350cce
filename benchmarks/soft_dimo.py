"""Soft-Di[M]O on the embedded teachers: what the papers report, measured in the small world.

python -m benchmarks.soft_dimo --out runs/soft-dimo [--only digits shapes tteo ...]

All of it takes some hours on 2 CPU cores. A finished part is kept in --out and not measured again.
The report is written to examples/results/soft-dimo.md.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.soft_dimo_report import STOPPING, report
from dimo_cli.console.live import PlainView
from dimo_cli.engine.refine import Refinement
from dimo_cli.engine.relax import estimate
from dimo_cli.evaluation.softness import measure_softness
from dimo_cli.evaluation.yardstick import Yardstick
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.shapes import Task, benchmark, scores
from dimo_cli.rewards.protocol import Reward
from dimo_cli.rewards.registry import load_reward
from dimo_cli.runs.distill import distill
from dimo_cli.runs.refine import real_tokens, refine
from dimo_cli.sampling.samplers import draw_images, sample_images, student_sampler
from dimo_cli.sampling.tteo import optimize_prompt, settled
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.specs.tteo import SHAPES_WEIGHTS, TteoSpec
from dimo_cli.students.published import open_student
from dimo_cli.students.student import LoadOptions, Student
from dimo_cli.students.target import Target
from dimo_cli.teachers.shapes import world
from dimo_cli.training.accelerator import make_accelerator

SEEDS = (0, 1, 2)
FID_IMAGES = 5000
PER_TASK = 50  # prompts of each of the six tasks
VARIANTS = {
    "Di[M]O and GAN": [],
    "GAN alone": ["distill_weight=0", "gan.weight=100"],
    "Di[M]O and GAN, Gumbel straight-through": ["relax.kind=gumbel_st"],
}
LONGER = "Di[M]O alone, as long"
ESTIMATORS = {"soft": 1.0, "gumbel_st": 1.0}
DRAWS = 64  # gradients behind a variance
SOFTNESS = (0.25, 0.5, 1.0, 2.0, 4.0)  # softmax temperatures of Fig. 8
ENOUGH = 11.5  # sum of the rewards; chosen on other prompts (seed 1 of the benchmark)
BUDGETS: dict[str, dict[str, float]] = {
    "plain": {"starts": 1, "iterations": 0},
    "best of 4": {"starts": 4, "iterations": 0},
    "best of 16": {"starts": 16, "iterations": 0},
    "best of 32": {"starts": 32, "iterations": 0},
    "best of 64": {"starts": 64, "iterations": 0},
    "TTEO 4x4": {"starts": 4, "iterations": 4},
    STOPPING: {"starts": 4, "iterations": 4, "stop_at": ENOUGH},
}


def refined(folder: Path, preset: str, start: str, sets: list[str]) -> Student:
    """The student of a refinement run, which is carried out if it is not there yet."""
    spec = resolve_spec(
        RefineSpec, preset=preset, sets=[*sets, f"start={start}"], environment={}
    ).spec
    if not (folder / "summary.json").is_file():
        resume = (folder / "run.yaml").is_file()
        refine(spec, folder, PlainView(print, seconds=30), resume=resume)
    return open_student(folder)


def distilled(folder: Path, preset: str, sets: list[str]) -> Student:
    """The student of a distillation run, which is carried out as far as it is not done yet."""
    spec = resolve_spec(DistillSpec, preset=preset, sets=sets, environment={}).spec
    if not (folder / "summary.json").is_file():
        distill(spec, folder, PlainView(print, seconds=30), (folder / "run.yaml").is_file())
    return open_student(folder, LoadOptions(with_teacher=True))


def measure_digits(folder: Path, seeds: Sequence[int] = SEEDS) -> dict[str, object]:
    """FID before and after refinement, with and without Di[M]O, soft and straight-through.

    Beside them, Di[M]O alone for as many steps more: what the refinement has to be held against.
    """
    found: dict[str, list[float]] = {name: [] for name in ("before", LONGER, *VARIANTS)}
    for seed in seeds:
        seeded = [f"train.seed={seed}", "monitor.table_samples=0"]
        start = folder / f"digits-start-{seed}"
        students = {"before": distilled(start, "digits", seeded)}
        for number, (name, sets) in enumerate(VARIANTS.items()):
            run = folder / f"digits-{number}-{seed}"
            students[name] = refined(run, "digits-gan", str(start), [*sets, seeded[0]])
        steps = sum(steps_of(run) for run in (start, folder / f"digits-0-{seed}"))
        longer = [*seeded, f"train.steps={steps}"]
        students[LONGER] = distilled(
            copied(start, folder / f"digits-longer-{seed}"), "digits", longer
        )
        for name, student in students.items():
            found[name].append(fid(student))
            print(f"{name}, seed {seed}: {found[name][-1]:.4f}", flush=True)
    before = found.pop("before")
    return {"before": before, "after": found, "images": FID_IMAGES, "seeds": seeds}


def copied(run: Path, folder: Path) -> Path:
    """A finished run once more, to go on with more steps."""
    if not folder.exists():
        shutil.copytree(run, folder, ignore=shutil.ignore_patterns("summary.json"))
    return folder


def steps_of(run: Path) -> int:
    """How many steps a run has trained."""
    last = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    return int(json.loads(last)["step"])


def fid(student: Student) -> float:
    """The FID of a student of digits."""
    sampler, protocol = student_sampler(student)
    device = next(student.backbone.parameters()).device
    yardstick = Yardstick(DistillSpec(), student.teacher, device)
    return yardstick.measure(sampler, images=FID_IMAGES, protocol=protocol).value


def measure_variance(folder: Path) -> dict[str, object]:
    """Spread of the adversarial gradient at the student's logits, by estimator.

    The discriminator is one that 100 steps have trained. Each draw has noise of its own and the
    same input, mask and condition, so only the estimator is what varies.
    """
    found = {}
    for kind, tau in ESTIMATORS.items():
        sets = ["train.steps=100", f"relax.kind={kind}", f"relax.temperature={tau}"]
        spec = resolve_spec(
            RefineSpec, preset="digits-gan", sets=[*sets, "start=digits"], environment={}
        ).spec
        start = open_student("digits", LoadOptions(with_teacher=True))
        accelerator = make_accelerator(spec.train)
        method = Refinement(
            start.teacher,
            spec,
            torch.Generator().manual_seed(0),
            accelerator.autocast,
            start=start.backbone,
            data=real_tokens(spec, start.teacher),
        )
        for step in range(spec.train.steps):
            method.step(step)
        found[kind] = spread(method)
    return found


def spread(method: Refinement) -> dict[str, float]:
    """Variance of the gradient of a batch over draws of noise, over its squared mean."""
    generation = method.generate(0)
    with torch.no_grad():
        logits = method.student.head(generation.hidden).float()
    mask = method.draw_mask(len(logits))

    def objective(weights: torch.Tensor) -> torch.Tensor:
        embeds = method.masked(weights, mask)
        assert method.discriminator is not None
        return F.softplus(-method.discriminator(embeds, generation.cond, method.generator))

    relax, gradients = method.refine.relax, []
    for _ in range(DRAWS):
        flat = logits.clone().requires_grad_()
        loss, _ = estimate(relax.kind, flat, objective, method.generator, relax.temperature)
        gradients.append(torch.autograd.grad(loss / len(flat), flat)[0].flatten())
    every = torch.stack(gradients)
    mean = every.mean(0)
    return {
        "norm_of_mean": mean.norm().item(),
        "relative_variance": (every - mean).square().sum(1).mean().item()
        / mean.square().sum().item(),
    }


def verify(target: Target, tasks: list[Task], **sampler: object) -> list[dict[str, float]]:
    """Scores of the six tasks for each seed."""
    found = []
    for seed in SEEDS:
        spec = SamplerSpec.model_validate({"seed": seed, **sampler})
        pixels, _ = sample_images(target, [task.prompt for task in tasks], spec)
        found.append(scores(tasks, list(pixels)))
    return found


def judged(student: Student, tasks: list[Task], rewards: dict[str, Reward]) -> dict[str, float]:
    """Mean rewards of a student's images."""
    prompts = [task.prompt for task in tasks]
    images, _ = draw_images(Target(student.teacher, student), prompts, SamplerSpec(seed=SEEDS[0]))
    with torch.no_grad():
        return {
            name: float(reward(images, reward.prepare(prompts)).mean())
            for name, reward in rewards.items()
        }


def shapes_students(folder: Path) -> dict[str, Student]:
    """The student of shapes that ships in the package, and what reward refinement makes of it."""
    return {
        "Di[M]O": open_student("shapes", LoadOptions(with_teacher=True)),
        "Di[M]O and reward": refined(folder / "shapes-reward", "shapes-reward", "shapes", []),
    }


def measure_shapes(folder: Path) -> dict[str, object]:
    """Verifier scores of teacher and students, and what the rewards say."""
    tasks = benchmark(PER_TASK)
    students = shapes_students(folder)
    teacher = Target(students["Di[M]O"].teacher)
    found = {
        f"teacher, {steps} steps": verify(teacher, tasks, teacher=True, steps=steps)
        for steps in (1, 4, 16)
    }
    rewards = {name: embedded_reward(name) for name in SHAPES_WEIGHTS}
    told = {}
    for name, student in students.items():
        found[f"student, {name}"] = verify(Target(student.teacher, student), tasks)
        told[name] = judged(student, tasks, rewards)
    return {"scores": found, "rewards": told, "prompts": len(tasks), "seeds": SEEDS}


def embedded_reward(name: str) -> Reward:
    """A reward that ships in the package: nothing is asked of the Hub."""
    return load_reward(name, HubStore())


def measure_tteo(folder: Path) -> dict[str, object]:
    """Verifier scores and seconds of best-of-N and of TTEO, over the refined student."""
    student = shapes_students(folder)["Di[M]O and reward"]
    rewards = {name: (embedded_reward(name), weight) for name, weight in SHAPES_WEIGHTS.items()}
    tasks = benchmark(PER_TASK)
    drawn = [run["overall"] for run in verify(Target(student.teacher, student), tasks)]
    found = {}
    for name, budget in BUDGETS.items():
        spec = settled(student, TteoSpec.model_validate(budget))
        pictures, seconds = [], []
        for number, task in enumerate(tasks):
            own = spec.model_copy(update={"seed": number})
            outcome = optimize_prompt(student, rewards, task.prompt, own)
            pictures.append(outcome.after)
            seconds.append(outcome.seconds)
        found[name] = {**scores(tasks, pictures), "seconds": statistics.mean(seconds)}
        print(name, found[name], flush=True)
    return {"drawn": drawn, "budgets": found, "prompts": len(tasks), "enough": ENOUGH}


def measure_soft_images(folder: Path) -> dict[str, object]:
    """Soft images against those of drawn tokens, by softmax temperature."""
    student = shapes_students(folder)["Di[M]O"]
    tasks = benchmark(21, seed=2)
    drawn = [world.render(*world.compose(task.scene, random.Random(0))) for task in tasks]
    images = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2) / 127.5 - 1
    found = measure_softness(student, [task.prompt for task in tasks], SOFTNESS, 0, images)
    return {str(temperature): asdict(part) for temperature, part in found.items()}


def measure_cold_start(folder: Path) -> dict[str, object]:
    """Seconds of the whole command, in a fresh process without a network."""
    command = [sys.executable, "-m", "dimo_cli", "sample", "--grid", str(folder / "cold.png")]
    command += ["--prompt", "two red circles above a blue square", "-n", "1"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds), "slowest": max(seconds)}


PARTS = {
    "digits": measure_digits,
    "variance": measure_variance,
    "shapes": measure_shapes,
    "tteo": measure_tteo,
    "soft_images": measure_soft_images,
    "cold_start": measure_cold_start,
}


def main() -> None:
    """Measure what is not measured yet, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/soft-dimo"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="of digits' trainings")
    parser.add_argument("--report", type=Path, default=Path("examples/results/soft-dimo.md"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    parts = {**PARTS, "digits": partial(measure_digits, seeds=options.seeds)}
    for name in options.only:
        path = options.out / f"{name}.json"
        if not path.exists():
            found = parts[name](options.out)
            path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    measured = {
        name: json.loads((options.out / f"{name}.json").read_text(encoding="utf-8"))
        for name in PARTS
        if (options.out / f"{name}.json").exists()
    }
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(report(measured), encoding="utf-8")
    print(f"Written: {options.report}")


if __name__ == "__main__":
    main()
