"""What decoding softly changes of the image, and what decides how much."""

from __future__ import annotations

import random
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.soft_dimo.shapes import STUDENT_FILES, tasks, unrefined
from benchmarks.soft_dimo.trials import Trial
from dimo_cli.engine.one_step import student_hidden, student_input
from dimo_cli.evaluation.softness import measure_softness
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
    settings = {"prompts": PROMPTS, "sure": SURE}
    found.append(Trial("softness", "by-certainty", settings, by_certainty, STUDENT_FILES))
    return found


def by_temperature(ratio: float, folder: Path) -> dict[str, Any]:
    """Errors against drawn and likeliest tokens, over what the tokenizer loses."""
    student, some = at_r_init(unrefined(), ratio), tasks()[:PROMPTS]
    rng = random.Random(0)
    pictures = [world.render(*world.compose(task.scene, rng)) for task in some]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1
    said = [task.prompt for task in some]
    found = measure_softness(student, said, TEMPERATURES, 0, images)
    return {str(temperature): asdict(part) for temperature, part in found.items()}


@torch.inference_mode()
def by_certainty(folder: Path) -> dict[str, Any]:
    """Where the error is: at patches whose token the student is sure of, and at the others."""
    student, some = unrefined(), tasks()[:PROMPTS]
    teacher, init = student.teacher, student.manifest.init
    generator = torch.Generator().manual_seed(0)
    cond = teacher.conditioner.prompts([task.prompt for task in some])
    tokens = student_input(teacher.space, teacher.tokenizer, init, len(cond), generator)
    hidden = student_hidden(student.backbone, tokens, cond, init.embed_noise.sigma, generator)
    probs = student.backbone.head(hidden).float().softmax(-1)
    drawn = torch.multinomial(probs.flatten(0, -2), 1, generator=generator).view(probs.shape[:-1])
    soft, hard = teacher.tokenizer.decode_probs(probs, cond), teacher.tokenizer.decode(drawn, cond)
    error = (soft.clamp(-1, 1) - hard.clamp(-1, 1)).div(2).square().mean(1)
    patches = torch.nn.functional.avg_pool2d(error[:, None], world.SIDE // 8).flatten(1)
    sure = probs.amax(-1).squeeze(-1) > SURE
    worst = patches.mean(1).sort(descending=True).values
    return {
        "share of sure tokens": float(sure.float().mean()),
        "error at sure tokens": float(patches[sure].mean()),
        "error at the others": float(patches[~sure].mean()),
        "share of the error at the others": float(patches[~sure].sum() / patches.sum()),
        "share of the error in the worst tenth": float(worst[: PROMPTS // 10].sum() / worst.sum()),
        "median over images": float(worst.median()),
        "mean over images": float(worst.mean()),
    }
