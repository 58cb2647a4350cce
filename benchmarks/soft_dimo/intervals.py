"""What a difference is worth: paired bootstrap intervals, and McNemar's exact test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

DRAWS = 10_000
PERCENT = (2.5, 97.5)


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def paired_gain(after: Sequence[Sequence[float]], before: Sequence[Sequence[float]]) -> Interval:
    """The mean of after - before over seeds and prompts [seeds][prompts].

    Both are drawn again: a prompt with all its seeds, as they share what makes it hard, and a seed
    with all its prompts.
    """
    gains = np.asarray(after, float) - np.asarray(before, float)
    return bootstrapped(gains.tobytes(), len(gains))


@cache  # several claims and tables tell the same gain
def bootstrapped(gains_as_bytes: bytes, seeds: int) -> Interval:
    """The mean of gains [seeds][prompts] and its interval."""
    gains = np.frombuffer(gains_as_bytes).reshape(seeds, -1)
    rng = np.random.default_rng(0)
    prompts = gains.shape[1]
    means = []
    for _ in range(DRAWS):
        rows = rng.integers(seeds, size=seeds)
        columns = rng.integers(prompts, size=prompts)
        means.append(gains[rows].mean(0)[columns].mean())
    return Interval(float(gains.mean()), *(float(x) for x in np.percentile(means, PERCENT)))


def mcnemar(one: Sequence[int], other: Sequence[int]) -> float:
    """The two-sided exact p of as many prompts that only one of both gets right."""
    first = sum(a > b for a, b in zip(one, other, strict=True))
    second = sum(b > a for a, b in zip(one, other, strict=True))
    total, least = first + second, min(first, second)
    tail = sum(math.comb(total, k) for k in range(least + 1)) / 2**total
    return min(1.0, 2 * tail)
