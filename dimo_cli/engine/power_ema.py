"""Averages by power functions, and any of them put together from snapshots of two.

Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models" (2024), section 3
and appendix C. The average at step t weighs the weights of step tau by tau^gamma, so that its
length is a share of the whole run: sigma_rel, the spread of that profile over t. Any other profile
is nearly a sum of those that were kept, and so is its average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Profile:
    """What an average weighs: tau^gamma, up to a step."""

    gamma: float
    step: int


@dataclass(frozen=True)
class Mixture:
    """How much of each kept average makes up another one."""

    shares: Tensor
    """They sum to 1: weights that never moved stay what they are."""
    error: float
    """The norm of what is left of the wanted profile, over its own."""


def length_of(gamma: float) -> float:
    """sigma_rel of an exponent (Eq. 123)."""
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def exponent_of(length: float) -> float:
    """The exponent gamma of a length sigma_rel, found by bisection: the one falls as it rises."""
    low, high = 0.0, 1 / length  # length_of(gamma) is below 1 / gamma
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if length_of(middle) > length else (low, middle)
    return low


def power_decay(gamma: float, step: int) -> float:
    """beta(t) = (1 - 1/t)^(gamma + 1) of the step t, the first of which is 1 (Eq. 127)."""
    return (1 - 1 / step) ** (gamma + 1)


def overlap(one: Profile, other: Profile) -> float:
    """The integral of the product of two profiles, each of which has the integral 1."""
    early, late = (one, other) if one.step <= other.step else (other, one)
    shrink = (early.step / late.step) ** late.gamma
    scale = (early.gamma + 1) * (late.gamma + 1) / (early.gamma + late.gamma + 1)
    return scale * shrink / late.step


def mixture(kept: Sequence[Profile], wanted: Profile) -> Mixture:
    """The sum of kept profiles that is nearest to a wanted one: least squares, shares of 1 in all.

    The last row and column of the system are the Lagrange multiplier's.
    """
    scale, count = wanted.step, len(kept)  # the run's length is the unit of time
    system = torch.zeros(count + 1, count + 1, dtype=torch.float64)
    products = [[scale * overlap(one, other) for other in kept] for one in kept]
    system[:count, :count] = torch.tensor(products, dtype=torch.float64)
    system[count, :count] = system[:count, count] = 1
    target = torch.tensor(
        [*(scale * overlap(one, wanted) for one in kept), 1.0], dtype=torch.float64
    )
    # Neighboring snapshots are nearly alike: of all good answers, the one with the least shares.
    found = torch.linalg.lstsq(system, target[:, None], driver="gelsd").solution[:count, 0]
    whole = scale * overlap(wanted, wanted)
    left = whole - 2 * found @ target[:count] + found @ system[:count, :count] @ found
    return Mixture(found, math.sqrt(max(0.0, left.item()) / whole))
