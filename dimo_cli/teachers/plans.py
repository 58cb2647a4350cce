"""Mask schedules, and the plans of parallel samplers that are made of them.

A schedule is the function m(u) from a number in [0, 1] to a share of masked tokens. A plan is the
list of a sampler's steps: how many slots stay masked after each, how they are drawn and chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from dimo_cli.errors import SpecError
from dimo_cli.teachers.protocol import Plan, Step


def truncated_normal_ratio(
    u: Tensor, mean: float = 0.55, std: float = 0.25, low: float = 0.5, high: float = 1.0
) -> Tensor:
    """Quantile function of a normal law truncated to [low, high] (the schedule of MAGE)."""
    cdf_low, cdf_high = (
        0.5 * (1 + math.erf((edge - mean) / (std * math.sqrt(2)))) for edge in (low, high)
    )
    share = cdf_low + u * (cdf_high - cdf_low)
    return (mean + std * math.sqrt(2) * torch.erfinv(2 * share - 1)).clamp(low, high)


SCHEDULES: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda u: u,
    "square": lambda u: u**2,
    "root": torch.sqrt,
    "cosine": lambda u: torch.cos(u * math.pi / 2),
    "arccos": lambda u: torch.arccos(u) / (math.pi / 2),
    "truncated_normal": truncated_normal_ratio,
}


def mask_progress(schedule: str, steps: int) -> Tensor:
    """The arguments u_0 ... u_steps at which a schedule falls from 1 to 0."""
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return u if schedule in ("cosine", "arccos") else 1 - u


def check_steps(steps: int, slots: int) -> None:
    """Refuse more steps than there is anything to do for."""
    if steps > slots:
        raise SpecError(
            f"{steps} steps are more than the {slots} tokens of an image.",
            f"Use at most `--steps {slots}`.",
        )


def tokens_per_step(schedule: str, steps: int, total: int) -> list[int]:
    """How many tokens each step reveals: in shares of the schedule, none empty, all in all."""
    check_steps(steps, total)
    if steps == 1:
        return [total]
    remaining = torch.linspace(1, 0, steps)
    ratio = SCHEDULES[schedule]
    shares = ratio(remaining) if schedule in ("cosine", "arccos") else 1 - ratio(remaining)
    counts = (shares / shares.sum() * total).round().clamp(min=1).long().tolist()
    counts[-1] += total - sum(counts)
    while counts[-1] < 1:  # many steps: the raised zeros must be taken from the largest shares
        counts[counts.index(max(counts))] -= 1
        counts[-1] += 1
    return counts


def masked_counts(ratios: Tensor, slots: int) -> list[int]:
    """Slots still masked after each step: floor(slots m_i), at least one fewer than before.

    At least one stays masked until the last step, which reveals all.
    """
    check_steps(len(ratios), slots)
    counts, before = [], slots
    for wanted in torch.floor(ratios[:-1].float() * slots).long().tolist():
        before = max(1, min(wanted, before - 1))
        counts.append(before)
    return [*counts, 0]


def progress(step: int, steps: int) -> float:
    """How far a step is between the first (0) and the last (1)."""
    return step / max(steps - 1, 1)


SharedChoice = Literal["random", "log_prob", "rolled_halton"]


def heuristic_plan(choice: SharedChoice, schedule: str = "arccos") -> Plan:
    """The plan of the shared samplers: constant guidance, tokens revealed in the schedule's shares.

    What stays is random, the most confident (with noise that fades), or next in Halton's order,
    in which each sample begins somewhere else.
    """
    return partial(_heuristic_steps, choice, schedule)


def _heuristic_steps(
    choice: SharedChoice,
    schedule: str,
    steps: int,
    slots: int,
    guidance: float,
    choice_noise: float,
) -> list[Step]:
    plan, masked = [], slots
    for index, count in enumerate(tokens_per_step(schedule, steps, slots)):
        masked -= count
        noise = choice_noise * (1 - progress(index, steps)) if choice == "log_prob" else 0.0
        plan.append(Step(masked, guidance, choice=choice, choice_noise=noise))
    return plan
