"""Numbers that a claim is held against: a mean, its 95 % interval, and the seeds behind it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student_t

from benchmarks.soft_dimo.intervals import Interval, mcnemar, paired_gain
from benchmarks.soft_dimo.measuring import SEEDS
from benchmarks.soft_dimo.rewards import LONGER, STEPS
from benchmarks.soft_dimo.trials import unpacked

RESULTS = Path(__file__).parent.parent / "results"
Results = Mapping[str, Mapping[str, Any]]
ONE_OVER_PROMPTS = "1, over prompts"
BySeed = Mapping[int, Mapping[str, Any]]


@dataclass(frozen=True)
class Measured:
    """What was found; without an interval nothing is decided."""

    mean: float
    low: float | None
    high: float | None
    seeds: str

    @property
    def interval(self) -> str:
        """The interval in brackets, or that there is none."""
        if self.low is None or self.high is None:
            return "none"
        return f"[{self.low:.3g}, {self.high:.3g}]"


def seeds_of(found: Results, name: str) -> dict[int, Mapping[str, Any]]:
    """The results of a trial by seed."""
    return {seed: found[f"{name}-{seed}"] for seed in SEEDS if f"{name}-{seed}" in found}


def longest(found: Results, name: str) -> tuple[int, dict[int, Mapping[str, Any]]]:
    """The results of a reward by seed, of the most steps that all seeds have; and how many."""
    for steps in sorted(LONGER, reverse=True):
        arms = {s: found[f"{name}-{s}-{steps}"] for s in SEEDS if f"{name}-{s}-{steps}" in found}
        if len(arms) == len(SEEDS):
            return steps, arms
    return STEPS, seeds_of(found, name)


def over_seeds(values: Sequence[float], of: str = "") -> Measured | None:
    """Student's t of two values or more, of one no interval; `of` names them if not by seed."""
    if not values:
        return None
    count, middle = len(values), mean(values)
    told = f"{count} {of}{'s' * (count > 1)}" if of else str(count)
    if count == 1:
        return Measured(middle, None, None, told)
    wide = float(student_t.ppf(0.975, count - 1)) * stdev(values) / math.sqrt(count)
    return Measured(middle, middle - wide, middle + wide, told)


def gain(found: Results, name: str, other: Results, base: str) -> Measured | None:
    """The verifier's paired gain of one trial over another, over the seeds that both have."""
    return gain_of_seeds(seeds_of(found, name), seeds_of(other, base))


def gain_of_seeds(after: BySeed, before: BySeed) -> Measured | None:
    """The verifier's paired gain, over the seeds that both have, and how many these are."""
    told, both = paired(after, before), after.keys() & before.keys()
    seeds = str(len(both)) if len(both) > 1 else ONE_OVER_PROMPTS
    return Measured(told.mean, told.low, told.high, seeds) if told else None


def paired(after: BySeed, before: BySeed) -> Interval | None:
    """The verifier's gain prompt by prompt, over the seeds that both have."""
    both = sorted(after.keys() & before.keys())
    if not both:
        return None
    return paired_gain(
        [unpacked(after[seed]["true"]) for seed in both],
        [unpacked(before[seed]["true"]) for seed in both],
    )


def gain_of_prompts(found: Results, name: str, base: str) -> Measured | None:
    """The paired gain of one trial over another where each has one image of a prompt."""
    if name not in found or base not in found:
        return None
    told = paired_gain([unpacked(found[name]["true"])], [unpacked(found[base]["true"])])
    p = mcnemar(unpacked(found[name]["true"]), unpacked(found[base]["true"]))
    return Measured(told.mean, told.low, told.high, f"{ONE_OVER_PROMPTS} (McNemar's p {p:.2g})")


def ratio(found: Results, name: str, base: str, key: str, part: str | None) -> Measured | None:
    """The ratio of two trials' values, seed by seed."""
    over, under = seeds_of(found, name), seeds_of(found, base)
    both = sorted(over.keys() & under.keys())
    return over_seeds([value(over[s], key, part) / value(under[s], key, part) for s in both])


def difference(found: Results, name: str, base: str, key: str, part: str | None) -> Measured | None:
    """The difference of two trials' values, seed by seed."""
    over, under = seeds_of(found, name), seeds_of(found, base)
    both = sorted(over.keys() & under.keys())
    return over_seeds([value(over[s], key, part) - value(under[s], key, part) for s in both])


def value(result: Mapping[str, Any], key: str, part: str | None) -> float:
    """The value whose name begins with `key`, of a part of the result or of all of it."""
    values = result if part is None else result[part]
    found = next(number for name, number in values.items() if name.startswith(key))
    return float(found[-1] if isinstance(found, list) else found)


@cache
def digits() -> list[dict[str, Any]]:
    """The runs of the preset `digits` with three seeds (`python -m benchmarks digits`)."""
    text = (RESULTS / "digits.json").read_text(encoding="utf-8")
    runs: list[dict[str, Any]] = json.loads(text)["runs"]
    return runs


def over_teacher(steps: int) -> Measured:
    """FID of trainings of `digits` over their teacher's (`python -m benchmarks.digits_sampled`)."""
    found = json.loads((RESULTS / "digits_sampled.json").read_text(encoding="utf-8"))
    trained = [mean(fids) for fids in found["trained"].values()]
    return ratio_of_means(trained, found["teacher"][str(steps)])


def ratio_of_means(over: Sequence[float], under: Sequence[float]) -> Measured:
    """The ratio of two geometric means, by Welch's t of logarithms: both sides have their noise."""
    logs = [[math.log(value) for value in values] for values in (over, under)]
    errors = [stdev(side) ** 2 / len(side) for side in logs]
    error = sum(errors)
    freedom = error**2 / sum(e**2 / (len(side) - 1) for e, side in zip(errors, logs, strict=True))
    wide = float(student_t.ppf(0.975, freedom)) * math.sqrt(error)
    middle = mean(logs[0]) - mean(logs[1])
    low, found, high = (math.exp(middle + shift) for shift in (-wide, 0, wide))
    return Measured(found, low, high, f"{len(over)}, the teacher's {len(under)}")


@cache
def ablations() -> dict[tuple[str, str], list[float]]:
    """FID by seed of each variant (`python examples/ablations_digits.py`)."""
    found = {}
    for line in (RESULTS / "ablations_digits.md").read_text(encoding="utf-8").splitlines()[4:]:
        what, variant, _, each = (part.strip() for part in line.strip("| ").split("|"))
        found[what, variant] = [float(part) for part in each.split(",")]
    return found


def ablated(what: str, variant: str, base: tuple[str, str] | None = None) -> Measured | None:
    """The FID of a variant over that of the preset, or of another variant, seed by seed."""
    preset = next(key for key in ablations() if key[0] == "preset digits")
    over, under = ablations()[what, variant], ablations()[base or preset]
    return over_seeds([a / b for a, b in zip(over, under, strict=True)])
