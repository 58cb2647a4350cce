"""What decoding softly changes of the image, and what decides how much."""

from __future__ import annotations

import random
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.soft_dimo.shapes import STUDENT_FILES, tasks, unrefined
from benchmarks.soft_dimo.trials import Trial
from dimo_cli.engine.one_step import student_hidden, student_input
from dimo_cli.evaluation.softness import measure_softness
from dimo_cli.metrics.shapes import Task
from dimo_cli.students.student import at_r_init
from dimo_cli.teachers.shapes import world

TEMPERATURES = (0.25, 0.5, 1.0, 2.0, 4.0)
RATIOS = (0.2, 0.6, 0.8, 0.95, 1.0)
PROMPTS = 300
SURE = 0.99


def trials() -> list[Trial]:
    """By softmax temperature at several r_init, and by what the student was sure of."""
    found = []
    for ratio in RATIOS:
        settings = {"r_init": ratio, "prompts": PROMPTS, "temperatures": list(TEMPERATURES)}
        run = partial(by_temperature, ratio)
        found.append(Trial("softness", f"r_init-{ratio}", settings, run, STUDENT_FILES))
    settings = {"prompts": PROMPTS, "sure": SURE, "resampled": 2000}
    found.append(Trial("softness", "by-certainty", settings, by_certainty, STUDENT_FILES))
    return found


def by_temperature(ratio: float, folder: Path) -> dict[str, Any]:
    """Errors against drawn and likeliest tokens, over what the tokenizer loses."""
    student, some = at_r_init(unrefined(), ratio), tasks()[:PROMPTS]
    said = [task.prompt for task in some]
    found = measure_softness(student, said, TEMPERATURES, 0, rendered(some))
    return {str(temperature): asdict(part) for temperature, part in found.items()}


def rendered(some: list[Task]) -> Tensor:
    """True pictures of prompts, as images [B, 3, 32, 32]."""
    rng = random.Random(0)
    pictures = [world.render(*world.compose(task.scene, rng)) for task in some]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1


@torch.inference_mode()
def by_certainty(folder: Path) -> dict[str, Any]:
    """Where the error is: at patches whose token the student is sure of, and at the others.

    A soft image is the mean of what may be drawn, about: two draws are twice as far from each
    other as one is from it, however it is decoded.
    """
    student, some = unrefined(), tasks()[:PROMPTS]
    teacher, init = student.teacher, student.manifest.init
    generator = torch.Generator().manual_seed(0)
    cond = teacher.conditioner.prompts([task.prompt for task in some])
    tokens = student_input(teacher.space, teacher.tokenizer, init, len(cond), generator)
    hidden = student_hidden(student.backbone, tokens, cond, init.embed_noise.sigma, generator)
    probs = student.backbone.head(hidden).float().softmax(-1)
    flat = probs.flatten(0, -2)
    drawn, again = (
        torch.multinomial(flat, 1, generator=generator).view(probs.shape[:-1]) for _ in range(2)
    )
    soft, hard = teacher.tokenizer.decode_probs(probs, cond), teacher.tokenizer.decode(drawn, cond)
    patches = errors(soft, hard)
    sure = probs.amax(-1).squeeze(-1) > SURE
    worst = patches.mean(1).sort(descending=True).values
    real = rendered(some)
    lost = errors(teacher.tokenizer.decode(teacher.tokenizer.encode(real), cond), real).mean(1)
    twice = errors(teacher.tokenizer.decode(again, cond), hard).mean(1)
    each = patches.mean(1)
    return {
        "share of sure tokens": resampled(sure.float().mean(1)),
        "error at sure tokens": float(patches[sure].mean()),
        "error at the others": float(patches[~sure].mean()),
        "share of the error at the others": float(patches[~sure].sum() / patches.sum()),
        "share of the error in the worst tenth": float(worst[: PROMPTS // 10].sum() / worst.sum()),
        "median over images": float(worst.median()),
        "mean over images": float(worst.mean()),
        "error of the tokenizer": float(lost.mean()),
        "over the tokenizer's error": resampled(each, lost),
        "two draws against each other, over it": resampled(twice, each),
    }


def errors(one: Tensor, other: Tensor) -> Tensor:
    """Squared errors [B, 64] of the patches of images, in units of the whole range."""
    error = (one.clamp(-1, 1) - other.clamp(-1, 1)).div(2).square().mean(1)
    return torch.nn.functional.avg_pool2d(error[:, None], world.SIDE // 8).flatten(1)


def resampled(over: Tensor, under: Tensor | None = None) -> list[float]:
    """A mean over prompts, or a ratio of two, and its 95 % interval."""
    under = torch.ones_like(over) if under is None else under
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(over), (2000, len(over)), generator=generator)
    low, high = (over[rows].mean(1) / under[rows].mean(1)).quantile(torch.tensor([0.025, 0.975]))
    return [float(over.mean() / under.mean()), float(low), float(high)]
