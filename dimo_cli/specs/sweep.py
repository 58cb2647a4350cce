"""What `dimo sweep` tries: values of some settings, and the runs that they make together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dimo_cli.errors import SpecError, did_you_mean
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.explain import known_paths, leaves
from dimo_cli.specs.flags import nested
from dimo_cli.specs.resolve import Plan, parse_value, resolve_spec

MOST_RUNS = 100
BY_FACTORS_FROM = 10.0  # a range that spans this factor is not spaced evenly
EXAMPLE = (
    "Write `--over student.optimizer.learning_rate=1e-6..1e-4`, or values with commas: "
    "`--over train.batch_size=32,64`."
)


@dataclass(frozen=True)
class Over:
    """A setting and the values to try, as they are written."""

    path: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    values: Mapping[str, str]
    """By the path of the setting."""
    plan: Plan[DistillSpec]
    folder: Path


@dataclass(frozen=True)
class Sweep:
    """Runs that differ in some settings alone."""

    over: tuple[Over, ...]
    usual: DistillSpec
    """What the preset would do if nobody swept."""
    trials: tuple[Trial, ...]

    @property
    def names(self) -> dict[str, str]:
        """What each setting is called: the end of its path that no other one has."""
        return short_names([one.path for one in self.over])


def read_sweep(
    start: str, over: Sequence[str], points: int, steps: int, sets: Sequence[str], folder: Path
) -> Sweep:
    """All runs of a sweep, each with a folder below `folder`; `start` is a preset or a file."""
    usual = start_from(start, sets).spec
    found = tuple(read_over(text, usual, points) for text in over)
    refuse_twice(found, sets)
    names = short_names([one.path for one in found])
    count = math.prod(len(one.values) for one in found)
    if count > MOST_RUNS:
        raise SpecError(
            f"This sweep would be {count:,} runs, and {MOST_RUNS} are allowed.",
            "Lower `--points`, or sweep over one setting after the other.",
        )
    trials = []
    for values in itertools.product(*(one.values for one in found)):
        chosen = {one.path: value for one, value in zip(found, values, strict=True)}
        flags = {
            f"flag --over {path}": nested(path, parse_value(value, f"--over {path}"))
            for path, value in chosen.items()
        }
        plan = start_from(start, sets, short_run(steps) | flags)
        check_trial(plan, chosen)
        name = ",".join(f"{names[path]}={value}" for path, value in chosen.items())
        trials.append(Trial(chosen, plan, folder / quote(name, safe=",=+")))
    return Sweep(found, usual, tuple(trials))


def check_trial(plan: Plan[DistillSpec], chosen: Iterable[str]) -> None:
    """Refuse a run that would be trained with other values than the sweep says of it."""
    said = [("train.steps", "flag --steps"), *((path, f"flag --over {path}") for path in chosen)]
    for path, origin in said:
        if plan.origins.get(path) != origin:
            flag = origin.split()[1]
            raise SpecError(
                f"`{path}` is set by {flag}, and by another flag as well.",
                f"Leave one out: a sweep's runs are compared by what {flag} says.",
            )


def start_from(
    start: str, sets: Sequence[str], flags: Mapping[str, dict[str, Any]] | None = None
) -> Plan[DistillSpec]:
    """The spec of a preset or of a YAML file."""
    if start.endswith((".yaml", ".yml")):
        return resolve_spec(DistillSpec, file=Path(start), sets=sets, flags=flags)
    return resolve_spec(DistillSpec, preset=start, sets=sets, flags=flags)


def short_run(steps: int) -> dict[str, dict[str, Any]]:
    """What every run of a sweep sets: its length, and one measurement of the student at its end."""
    return {
        "flag --steps": {"train": {"steps": steps}},
        "the sweep": {"monitor": {"fid_every": steps, "table_samples": 0}},
    }


def read_over(text: str, usual: DistillSpec, points: int) -> Over:
    """`KEY=A..B` or `KEY=A,B,C`."""
    path, equals, written = (part.strip() for part in text.partition("="))
    settings = {leaf.path: leaf.value for leaf in leaves(usual)}
    known = known_paths(DistillSpec)
    if not equals or not written:
        raise SpecError(f"`--over {text}` is not understood.", EXAMPLE)
    if path not in known:
        raise SpecError(f"`--over {text}`: there is no `{path}`.", did_you_mean(path, known))
    if ".." in written:
        values = spaced(text, written, points, path, type(settings.get(path)) is int)
    else:
        values = [value.strip() for value in written.split(",")]
    values = list(dict.fromkeys(values))
    if not all(values) or len(values) < 2:
        raise SpecError(f"`--over {text}` names fewer than two values.", EXAMPLE)
    return Over(path, tuple(values))


def spaced(text: str, written: str, points: int, path: str, is_whole: bool) -> list[str]:
    """Values from A to B: by equal factors for learning rates and wide ranges, else evenly."""
    first, _, last = written.partition("..")
    try:
        low, high = float(first), float(last)
    except ValueError:
        raise SpecError(f"`--over {text}` is not a range of numbers.", EXAMPLE) from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise SpecError(f"`--over {text}`: a range goes from a lower number to a higher.", EXAMPLE)
    shares = [index / (points - 1) for index in range(points)]
    if low > 0 and (path.endswith("learning_rate") or high / low >= BY_FACTORS_FROM):
        found = [low * (high / low) ** share for share in shares]
    else:
        found = [low + (high - low) * share for share in shares]
    return [str(round(value)) if is_whole else f"{value:.3g}" for value in found]


def refuse_twice(over: Sequence[Over], sets: Sequence[str]) -> None:
    """Refuse a setting that has a fixed value as well, or that is swept over twice."""
    paths = [one.path for one in over]
    fixed = {assignment.partition("=")[0].strip() for assignment in sets}
    for path in paths:
        if path in fixed or paths.count(path) > 1:
            also = "--set" if path in fixed else "another --over"
            raise SpecError(f"`{path}` is set by --over and by {also}.", "Leave one of them out.")


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """The end of each path that tells it from the others."""
    names = {}
    for path in paths:
        parts = path.split(".")
        ends = [".".join(parts[-length:]) for length in range(1, len(parts) + 1)]
        others = [other for other in paths if other != path]
        names[path] = next(
            (end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others)),
            path,
        )
    return names
