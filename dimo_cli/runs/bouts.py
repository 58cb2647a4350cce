"""The runs of an arena: what each method trains with, and for how many steps.

FOLDER/runs/redi/seed-0/       an ordinary run folder each
FOLDER/tuning/redi/rates-0.5/  those that learning rates were chosen by, with `--tune`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dimo_cli.console import next_steps
from dimo_cli.data.shards import builtin_dataset
from dimo_cli.engine.objective import PassObjective
from dimo_cli.engine.objectives.registry import named_objectives
from dimo_cli.errors import DimoError, SpecError
from dimo_cli.planning.plan import forecast
from dimo_cli.runs.trial import hours_of
from dimo_cli.specs.arena import FACTORS, TUNING_SEED, ArenaSpec
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.explain import leaves
from dimo_cli.specs.flags import nested
from dimo_cli.specs.render import scalar
from dimo_cli.specs.resolve import Plan, resolve_spec
from dimo_cli.specs.sweep import Trial, start_from

DECIDED = {
    "train.steps": "--budget",
    "train.seed": "--seeds",
    "student.steps": "--steps",
}
"""Settings that options of the arena decide."""


@dataclass(frozen=True)
class Bout:
    """One run of an arena."""

    method: str
    seed: int
    factor: float
    """What the preset's learning rates are multiplied by."""
    trial: Trial

    @property
    def spec(self) -> DistillSpec:
        """What it trains with."""
        return self.trial.plan.spec

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return self.trial.folder

    @property
    def forwards(self) -> int:
        """Forwards of the student, over all its steps."""
        return round(self.spec.train.steps * forwards_of_step(self.spec))


@dataclass(frozen=True)
class Entrant:
    """A method as it enters: its runs, or why it cannot be used."""

    method: str
    bouts: tuple[Bout, ...] = ()
    refusal: str | None = None
    tuning: tuple[Bout, ...] = ()
    """The runs by which its learning rates are chosen."""

    @property
    def all_bouts(self) -> tuple[Bout, ...]:
        """All its runs in their order."""
        return (*self.tuning, *self.bouts)


def forwards_of_step(spec: DistillSpec) -> float:
    """Samples that go through the student in a step, with or without a way back."""
    named = named_objectives(spec)
    passes = sum(one.trained + one.looks for one in named if isinstance(one, PassObjective))
    if any(not isinstance(one, PassObjective) for one in named):
        passes += 1 + spec.student.passes_before
    return passes * spec.train.batch_size * spec.train.accumulate


def entrants(asked: ArenaSpec, sets: Sequence[str], folder: Path) -> tuple[Entrant, ...]:
    """All methods of an arena, in the order that they were named in."""
    for assignment in sets:
        path = assignment.partition("=")[0].strip()
        if path in DECIDED:
            raise SpecError(
                f"`--set {assignment}`: in an arena {DECIDED[path]} decides on `{path}`.",
                f"Use `{DECIDED[path]}`.",
            )
    start_from(asked.teacher, sets)  # what is wrong for every method ends the arena
    return tuple(entrant(asked, method, sets, folder) for method in asked.methods)


def entrant(asked: ArenaSpec, method: str, sets: Sequence[str], folder: Path) -> Entrant:
    """A method with its runs, unless its settings are refused for this teacher."""
    if not asked.steps_of(method):
        return Entrant(method, refusal=f"{method} trains for one step alone: add 1 to `--steps`.")
    try:
        refuse_without_images(plan_of(asked, method, sets, {}).spec)
        steps = training_steps(asked, method, sets, folder)
        bouts = tuple(
            bout(asked, method, seed, 1.0, steps, sets, folder) for seed in range(asked.seeds)
        )
        tuning = FACTORS if asked.tune else ()
        tried = (bout(asked, method, TUNING_SEED, rate, steps, sets, folder) for rate in tuning)
        return Entrant(method, bouts, tuning=tuple(tried))
    except SpecError as problem:
        return Entrant(method, refusal=" ".join(filter(None, (problem.message, problem.hint))))


def refuse_without_images(spec: DistillSpec) -> None:
    """Refuse a method that learns from real images of a teacher that has none."""
    wanted = {one.needs.images for one in named_objectives(spec)}
    if "data" in wanted and spec.data is None:
        builtin_dataset(spec.teacher.name, "data")


def with_rates(
    asked: ArenaSpec, found: Entrant, factor: float, sets: Sequence[str], folder: Path
) -> Entrant:
    """A method whose runs have other learning rates."""
    bouts = tuple(
        bout(asked, one.method, one.seed, factor, one.spec.train.steps, sets, folder)
        for one in found.bouts
    )
    return replace(found, bouts=bouts)


def training_steps(asked: ArenaSpec, method: str, sets: Sequence[str], folder: Path) -> int:
    """As many steps as the budget is enough for; those of a time are kept by the first run."""
    limit, usual = asked.limit, plan_of(asked, method, sets, {})
    if limit.forwards is not None:
        steps = int(limit.forwards / forwards_of_step(usual.spec))
        if steps < 1:
            raise SpecError(
                f"--budget {asked.budget} is less than one step of {method}, which takes "
                f"{forwards_of_step(usual.spec):,.0f} forwards of the student."
            )
        return steps
    assert limit.seconds is not None
    if (begun := begun_with(folder, method)) is not None:
        return begun
    hours = hours_of(forecast(usual, folder))
    if hours.training is None:
        raise SpecError(
            f"How many steps of {method} fit into {asked.budget} is {hours.how}.",
            "Give `--budget` as a number of forwards.",
        )
    pairs = hours.pairs or 0.0
    share = (limit.seconds - pairs) / (hours.training - pairs)
    return max(1, int(share * usual.spec.train.steps))


def begun_with(folder: Path, method: str) -> int | None:
    """The steps of a method's runs that have begun in a folder."""
    for written in sorted(folder.glob(f"*/{method}/*/run.yaml")):
        return resolve_spec(DistillSpec, file=written, environment={}).spec.train.steps
    return None


def plan_of(
    asked: ArenaSpec, method: str, sets: Sequence[str], more: Mapping[str, Any]
) -> Plan[DistillSpec]:
    """What a method trains with; `more` by path is what the arena sets of one run."""
    start, overrides = asked.start_of(method)
    own = asked.steps_of(method)
    decided: dict[str, Any] = {
        "student.steps": list(own),
        "monitor.fid_every": 0,
        "monitor.table_samples": 0,
    }
    if own == (1,):
        decided["masking.bridge"] = False  # in one step nothing is kept that could be bridged
    layers = {f"method {method}, {path}": nested(path, to) for path, to in overrides.items()}
    layers |= {f"the arena, {path}": nested(path, to) for path, to in {**decided, **more}.items()}
    return start_from(start, sets, layers)


def bout(
    asked: ArenaSpec,
    method: str,
    seed: int,
    factor: float,
    steps: int,
    sets: Sequence[str],
    folder: Path,
) -> Bout:
    """One run with its folder."""
    more: dict[str, Any] = {"train.steps": steps, "train.seed": seed}
    more["monitor.preview_every"] = steps
    if factor != 1:
        usual = plan_of(asked, method, sets, more).spec
        for part in ("student", "auxiliary"):
            rate = getattr(usual, part).optimizer.learning_rate * factor
            more[f"{part}.optimizer.learning_rate"] = float(f"{rate:.4g}")
    is_tuning = seed == TUNING_SEED
    place = (
        ("tuning", method, f"rates-{factor:g}") if is_tuning else ("runs", method, f"seed-{seed}")
    )
    plan = plan_of(asked, method, sets, more)
    return Bout(method, seed, factor, Trial({}, plan, folder.joinpath(*place)))


def again(asked: ArenaSpec, one: Bout) -> str:
    """The command of one run alone."""
    start, _ = asked.start_of(one.method)
    kind = "--spec" if start.endswith((".yaml", ".yml")) else "--preset"
    plain = {leaf.path: leaf.value for leaf in leaves(one.spec)}
    own = [
        path
        for path, origin in one.trial.plan.origins.items()
        if origin.startswith(("the arena", "method", "flag")) and path in plain
    ]
    words = [word for path in own for word in ("--set", f"{path}={scalar(plain[path])}")]
    return next_steps.command("distill", kind, start, *words).strip("`")


def hours_of_bouts(found: Entrant, asked: ArenaSpec, folder: Path) -> float | None:
    """About how many hours of training a method's runs take; None where nobody knows."""
    if asked.limit.seconds is not None:
        return asked.limit.seconds * len(found.all_bouts) / 3600
    try:
        hours = hours_of(forecast(found.bouts[0].trial.plan, folder))
    except DimoError:
        return None
    if hours.training is None:
        return None
    pairs = hours.pairs or 0.0  # which runs of the same seed share
    seeds = {one.seed for one in found.all_bouts}
    return ((hours.training - pairs) * len(found.all_bouts) + pairs * len(seeds)) / 3600
