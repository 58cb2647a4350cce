"""The published sampler of Show-o: the surest tokens stay, under noise that fades as a product."""

from __future__ import annotations

import torch

from dimo_cli.teachers.plans import SCHEDULES, masked_counts
from dimo_cli.teachers.protocol import Step


def showo_plan(steps: int, slots: int, guidance: float, choice_noise: float) -> list[Step]:
    """Cosine counts at constant guidance.

    Each step multiplies the noise of the one before by the share of steps that are left: after a
    third of them hardly any is there.
    """
    # In float32, as released: two thirds of the way cos(pi / 3) is a little less than a half.
    counts = masked_counts(SCHEDULES["cosine"](torch.arange(1, steps + 1) / steps), slots)
    plan, noise = [], choice_noise
    for index, count in enumerate(counts):
        noise *= 1 - (index + 1) / steps
        plan.append(Step(count, guidance, choice_noise=noise))
    return plan
