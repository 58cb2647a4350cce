"""Gates of `dimo eval`: how good a number has to be for CI to pass. No torch here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from dimo_cli.errors import SpecError, did_you_mean

# What a gate can be named, by the metric that measures it.
GATED: Mapping[str, tuple[str, ...]] = {
    "fid": ("fid",),
    "kid": ("kid",),
    "is": ("is",),
    "pr": ("precision", "recall", "density", "coverage"),
    "fdd": ("fdd",),
    "clip": ("clip", "shapes_clip", "emoji_clip"),
    "hps": ("hps",),
    "image_reward": ("image_reward", "shapes_preference", "emoji_preference"),
    "pickscore": ("pickscore",),
    "geneval": ("geneval",),
    "emoji": ("emoji",),
}


ENDING = r"(\d+k?|_.+)?"  # of a result's name: how many images, k, or which convention


class Measured(Protocol):
    """A number by name."""

    @property
    def metric(self) -> str:
        """Its name with its convention."""

    @property
    def value(self) -> float:
        """The number."""


T = TypeVar("T", bound=Measured)


@dataclass(frozen=True, slots=True)
class Gate:
    """A limit, and whether a number keeps to it."""

    metric: str
    value: float
    limit: float
    is_maximum: bool

    @property
    def passed(self) -> bool:
        """Whether the number keeps to the limit; NaN never does."""
        return self.value <= self.limit if self.is_maximum else self.value >= self.limit

    @property
    def sentence(self) -> str:
        """The outcome in words."""
        verdict = "passed" if self.passed else "failed"
        side = "at most" if self.is_maximum else "at least"
        return f"Gate {verdict}: {self.metric} is {self.value:.4f}, {side} {self.limit:g} allowed."


def numbers_of(metrics: Iterable[str]) -> list[str]:
    """The names of what these metrics measure, without what a name ends in."""
    return [name for metric in metrics for name in GATED.get(metric, ())]


def known_as(full: str) -> str:
    """What the number of a full name is known as: `fid` for `fid5k`, else the name itself.

    The longest name counts: `emoji_clip` is no number of `emoji`.
    """
    found = [name for name in numbers_of(GATED) if re.fullmatch(name + ENDING, full)]
    return max(found, key=len, default=full)


def read_limits(texts: Sequence[str], metrics: Sequence[str], flag: str) -> dict[str, float]:
    """`NAME=VALUE`, or `VALUE` alone where only one number is measured."""
    names = numbers_of(metrics) or numbers_of(GATED)
    limits: dict[str, float] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not equals:
            if len(metrics) != 1 or metrics[0] == "pr":
                raise SpecError(
                    f"`{flag} {text}` does not say which number it is for.",
                    f"Write `{flag} NAME={text}` with one of {', '.join(names)}.",
                )
            name = metrics[0]
        if known_as(name) not in names:
            raise SpecError(
                f"`{flag} {text}`: {name!r} is not measured.", did_you_mean(name, names)
            )
        if name in limits:
            raise SpecError(
                f"`{flag}` is given twice for {name!r}.", "A gate has one limit: leave one out."
            )
        try:
            limits[name] = float(value)
            if not math.isfinite(limits[name]):
                raise ValueError
        except ValueError:
            raise SpecError(
                f"`{flag} {text}` is not of the form NAME=NUMBER.", f"For example `{flag} fid=7.0`."
            ) from None
    return limits


def check_limits(names: Iterable[str], metrics: Sequence[str]) -> None:
    """Refuse limits of what these metrics do not measure, before anything is drawn."""
    known = numbers_of(metrics)
    for name in names:
        if known_as(name) not in known:
            raise SpecError(f"There is no number `{name}` to gate on.", did_you_mean(name, known))


def check_conventions(names: Iterable[str], told: Sequence[str]) -> None:
    """Refuse limits of numbers under another count or k than they are `told` under."""
    full = {known_as(name): name for name in told}
    for name in names:
        known = known_as(name)
        if name != known and full.get(known, name) != name:
            raise SpecError(
                f"There is no number `{name}` to gate on: it is `{full[known]}` here.",
                f"Name that or `{known}`, or measure as many images and neighbors.",
            )


def named(results: Sequence[T], name: str) -> T | None:
    """The number of this very name, else the first that it stands for.

    A metric stands for all that it can measure: `clip` is `shapes_clip` on that world.
    """
    exact = [result for result in results if result.metric == name]
    meant = (name, *GATED.get(name, ()))
    return next(iter(exact or [r for r in results if known_as(r.metric) in meant]), None)


def check_gates(
    results: Sequence[Measured], maximum: Mapping[str, float], minimum: Mapping[str, float]
) -> list[Gate]:
    """Every gate against the first number of its name; one without a number is refused."""
    gates = []
    for limits, is_maximum in ((maximum, True), (minimum, False)):
        for name, limit in limits.items():
            found = named(results, name)
            if found is None:
                told = ", ".join(result.metric for result in results)
                raise SpecError(f"There is no number `{name}` to gate on, only {told}.")
            gates.append(Gate(found.metric, found.value, limit, is_maximum))
    return gates
