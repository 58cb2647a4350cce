"""The published sampler of TiTok: guidance that grows, temperature and noise that fall."""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import torch

from dimo_cli.teachers.plans import SCHEDULES, masked_counts
from dimo_cli.teachers.protocol import Plan, Step

Growth = Literal["linear", "power-cosine"]


def growing_plan(growth: Growth, power: float = 3.0) -> Plan:
    """The plan of S steps in which guidance grows from 1, no guidance, to its largest.

    With u = n / S at step n and r = (n + 1) / S when it is over: arccos(r) of the tokens stay
    masked, guidance has covered u or (1 - cos(pi u^power)) / 2 of its way, the temperature is
    0.5 + 0.8 (1 - r), and the noise on tokens and on their choice is 1 - r of what it is given.
    Tokens are chosen by their own tempered logits.
    """
    return partial(_growing_steps, growth, power)


def _growing_steps(
    growth: Growth, power: float, steps: int, slots: int, guidance: float, choice_noise: float
) -> list[Step]:
    ratios = SCHEDULES["arccos"](torch.arange(1, steps + 1, dtype=torch.float64) / steps)
    plan = []
    for index, masked_after in enumerate(masked_counts(ratios, slots)):
        left = 1 - (index + 1) / steps
        noise = choice_noise * left
        scale = 1 + (guidance - 1) * guidance_share(growth, power, index / steps)
        plan.append(
            Step(masked_after, scale, 0.5 + 0.8 * left, noise, choice="logit", choice_noise=noise)
        )
    return plan


def guidance_share(growth: Growth, power: float, u: float) -> float:
    """How far guidance is between 1 and its largest when the share u of the steps is over."""
    return u if growth == "linear" else (1 - math.cos(math.pi * u**power)) / 2
