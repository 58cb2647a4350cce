"""The published sampler of MaskGen: guidance grows, both temperatures fall."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from dimo_cli.teachers.plans import SCHEDULES, masked_counts
from dimo_cli.teachers.protocol import Step

WEAKEST_GUIDANCE = 2.0


def cosine_ramp(progress: float) -> float:
    """From 0 to 1, slow at both ends."""
    return (1 - math.cos(math.pi * progress)) / 2


def maskgen_plan(
    steps: int,
    slots: int,
    guidance: float,
    choice_noise: float,
    ramp: Callable[[float], float] = cosine_ramp,
) -> list[Step]:
    """Steps whose guidance goes up to `guidance` along `ramp`.

    The authors write c + s (c - u), which is the standard form with 1 + s, and let s start at 1.
    One factor sets the noise of both draws. Guidance that is asked to be weaker than the start is
    constant.
    """
    progress = [(index + 1) / steps for index in range(steps)]
    counts = masked_counts(SCHEDULES["arccos"](torch.tensor(progress)), slots)
    start = min(WEAKEST_GUIDANCE, guidance)
    return [
        Step(
            masked_after=count,
            guidance=start + (guidance - start) * ramp(done),
            temperature=0.5 + 0.8 * (1 - done),
            token_noise=choice_noise * (1 - done),
            choice="logit",
            choice_noise=choice_noise * (1 - done),
        )
        for count, done in zip(counts, progress, strict=True)
    ]
