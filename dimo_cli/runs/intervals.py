"""Means over seeds with what is sure of them, and how a table says so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from dimo_cli.planning.hours import words as time_words

# The 97.5 % points of Student's t for 1, 2, ... degrees of freedom.
# fmt: off
T = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157,
    2.228139, 2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922,
    2.093024,
)
# fmt: on
NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Interval:
    """The mean over seeds; of three and more with its 95 % interval, of two with their range."""

    mean: float
    low: float | None = None
    high: float | None = None
    seeds: int = 1

    @property
    def kind(self) -> str:
        """What its ends are."""
        return {1: "none", 2: "range"}.get(self.seeds, "95 %")

    @property
    def words(self) -> str:
        """As people read it."""
        if self.low is None or self.high is None or self.low == self.high:
            return f"{self.mean:.4g}"
        if self.seeds == 2:
            return f"{self.mean:.4g} ({self.low:.4g} to {self.high:.4g})"
        return f"{self.mean:.4g} ± {self.high - self.mean:.2g}"

    def document(self) -> dict[str, Any]:
        """For machines."""
        ends = {"low": self.low, "high": self.high}
        return {"mean": self.mean, **ends, "interval": self.kind, "seeds": self.seeds}


def interval(values: Sequence[float]) -> Interval:
    """Mean and Student's t; two values have too little to say for that, and show their range."""
    mean, count = fmean(values), len(values)
    if count == 1:
        return Interval(mean)
    if count == 2:
        return Interval(mean, min(values), max(values), count)
    reach = T[count - 2] * stdev(values) / math.sqrt(count)
    return Interval(mean, mean - reach, mean + reach, count)


def said(found: Interval | None) -> str:
    """A cell."""
    return found.words if found else NOTHING


def count_of(found: Interval | None) -> str:
    """A cell of whole numbers, which are mostly the same for all seeds."""
    return f"{found.mean:,.0f}" if found else NOTHING


def time_of(found: Interval | None) -> str:
    """A cell of a time."""
    return time_words(found.mean) if found else NOTHING
