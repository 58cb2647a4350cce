"""The published sampler of Halton-MaskGIT: positions in Halton's order, whatever is drawn."""

from __future__ import annotations

import math
from functools import partial

from dimo_cli.teachers.plans import check_steps, progress
from dimo_cli.teachers.protocol import Plan, Step


def halton_plan(
    first: float = 1.0,
    last: float = 1.0,
    power: float = 1.0,
    warmup: int = 0,
    rolled: bool = False,
) -> Plan:
    """The plan of N steps at constant guidance.

    Logits are multiplied by a factor that goes from `first` to `last` along a line, to a `power`,
    and is halved in the first `warmup` steps. With `rolled` each sample begins somewhere else in
    the order.
    """
    return partial(_halton_steps, (first, last, power), warmup, rolled)


def _halton_steps(
    line: tuple[float, float, float],
    warmup: int,
    rolled: bool,
    steps: int,
    slots: int,
    guidance: float,
    choice_noise: float,
) -> list[Step]:
    check_steps(steps, slots)
    first, last, power = line
    plan = []
    for index in range(steps):
        factor = (first + (last - first) * progress(index, steps)) ** power
        plan.append(
            Step(
                masked_after=slots - revealed(index, steps, slots),
                guidance=guidance,
                temperature=(2 if index < warmup else 1) / factor,
                choice="rolled_halton" if rolled else "halton",
            )
        )
    return plan


def revealed(index: int, steps: int, slots: int) -> int:
    """How many tokens are known after a step: the released code rounds this number down.

    Half way that is a third of all in exact numbers, and one less in floating point.
    """
    share = 1 - math.acos((index + 1) / steps) * 2 / math.pi
    return max(index + 1, int(slots * share))
