"""What came of an arena, as numbers and as rows of its tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dimo_cli.console import next_steps
from dimo_cli.runs.intervals import NOTHING, Interval, count_of, interval, said, time_of
from dimo_cli.specs.arena import ArenaSpec
from dimo_cli.specs.metrics import is_better, title_of


@dataclass(frozen=True)
class Outcome:
    """What one run came to."""

    run: Path
    seed: int
    factor: float
    steps: int
    forwards: int
    seconds: float | None
    seconds_per_step: float | None
    memory_gib: float | None
    teacher_kl: float | None
    problem: str | None = None
    numbers: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """By the steps that images were drawn in, and by metric."""

    @property
    def milliseconds(self) -> float | None:
        """Of a step."""
        return None if self.seconds_per_step is None else 1000 * self.seconds_per_step

    @property
    def first_number(self) -> tuple[str, float | None]:
        """What learning rates are chosen by: the first metric in the fewest steps."""
        for found in self.numbers.values():
            for name, value in found.items():
                return name, value if math.isfinite(value) else None
        return "fid", None

    def document(self) -> dict[str, Any]:
        """For machines."""
        return {
            "run": str(self.run),
            "seed": self.seed,
            "rates": self.factor,
            "steps": self.steps,
            "forwards": self.forwards,
            "seconds": self.seconds,
            "seconds_per_step": self.seconds_per_step,
            "memory_gib": self.memory_gib,
            "teacher_kl": self.teacher_kl,
            "problem": self.problem,
            "numbers": {str(steps): dict(found) for steps, found in self.numbers.items()},
        }


@dataclass(frozen=True)
class Contender:
    """A method with all its runs, or the reason why it has none."""

    method: str
    title: str
    outcomes: tuple[Outcome, ...] = ()
    tuned: tuple[Outcome, ...] = ()
    factor: float = 1.0
    command: str = ""
    refusal: str | None = None

    def over_seeds(self, value: Callable[[Outcome], float | None]) -> Interval | None:
        """A number over the seeds that have it; None where none has."""
        found = [one for outcome in self.outcomes if (one := value(outcome)) is not None]
        finite = [one for one in found if math.isfinite(one)]
        return interval(finite) if finite else None

    def number(self, metric: str, steps: int) -> Interval | None:
        """A metric of images of so many steps."""
        return self.over_seeds(lambda one: one.numbers.get(steps, {}).get(metric))

    @property
    def problems(self) -> list[str]:
        """What went wrong, by seed."""
        return [f"seed {one.seed}: {one.problem}" for one in self.outcomes if one.problem]


@dataclass(frozen=True)
class ArenaResult:
    """What all methods came to, as far as the arena has gone."""

    asked: ArenaSpec
    contenders: tuple[Contender, ...]
    sets: tuple[str, ...] = ()
    """Settings that hold for every run."""
    folder: Path = Path()
    second: ArenaResult | None = None
    """What they came to within the other budget."""

    @property
    def metrics(self) -> list[str]:
        """What was measured, in its order."""
        found = (n for c in self.contenders for o in c.outcomes for n in o.numbers.values())
        return list(dict.fromkeys(name for numbers in found for name in numbers))

    def best(self, metric: str, steps: int) -> str | None:
        """The method whose mean is best; None where none has a number."""
        best: tuple[str, float] | None = None
        for one in self.contenders:
            found = one.number(metric, steps)
            if found and (best is None or is_better(metric, found.mean, best[1])):
                best = one.method, found.mean
        return best[0] if best else None

    def rows(self) -> list[list[str]]:
        """The table: a row for each method and each number of steps."""
        rows = []
        for one in self.contenders:
            for steps in self.asked.steps:
                found = [one.number(metric, steps) for metric in self.metrics]
                if any(found):
                    cells = (
                        said(number) + (" (best)" if self.best(metric, steps) == one.method else "")
                        for metric, number in zip(self.metrics, found, strict=True)
                    )
                    rows.append([one.title, str(steps), *cells])
        return rows

    @property
    def head(self) -> list[str]:
        """The columns of `rows`."""
        return ["method", "steps", *map(title_of, self.metrics)]

    @property
    def tells_memory(self) -> bool:
        """Whether any run knows what it held, as on a card."""
        return any(o.memory_gib is not None for one in self.contenders for o in one.outcomes)

    def costs(self) -> list[list[str]]:
        """What each method took: a row for each that ran."""
        return [
            [
                one.title,
                said(one.over_seeds(lambda o: o.teacher_kl)),
                count_of(one.over_seeds(lambda o: float(o.forwards))),
                count_of(one.over_seeds(lambda o: float(o.steps))),
                time_of(one.over_seeds(lambda o: o.seconds)),
                said(
                    one.over_seeds(
                        lambda o: 1000 * o.seconds_per_step if o.seconds_per_step else None
                    )
                ),
                *([said(one.over_seeds(lambda o: o.memory_gib))] if self.tells_memory else []),
            ]
            for one in self.contenders
            if one.outcomes
        ]

    def grid(self) -> list[list[str]]:
        """How learning rates were chosen: a row for each run on the seed that is not reported."""
        return [
            [
                one.title,
                f"{outcome.factor:g}",
                NOTHING if outcome.first_number[1] is None else f"{outcome.first_number[1]:.4g}",
                "chosen" if outcome.factor == one.factor else "",
            ]
            for one in self.contenders
            for outcome in one.tuned
        ]

    def refusals(self) -> list[list[str]]:
        """Methods that cannot be used with this teacher, and why."""
        return [[one.title, one.refusal] for one in self.contenders if one.refusal]

    def problems(self) -> list[list[str]]:
        """Runs that have no student, and why."""
        return [[one.title, problem] for one in self.contenders for problem in one.problems]

    def document(self) -> dict[str, Any]:
        """For machines."""
        return {
            **self.asked.model_dump(mode="json"),
            "set": list(self.sets),
            "metrics": self.metrics,
            "results": [self.of_method(one) for one in self.contenders],
            **({"within_also": self.second.document()} if self.second else {}),
        }

    def of_method(self, one: Contender) -> dict[str, Any]:
        """What one method came to, for machines."""
        if one.refusal:
            return {"method": one.method, "refused": one.refusal}
        by_steps = {
            str(steps): {
                metric: found.document()
                for metric in self.metrics
                if (found := one.number(metric, steps))
            }
            for steps in self.asked.steps
        }
        return {
            "method": one.method,
            "rates": one.factor,
            "numbers": {steps: found for steps, found in by_steps.items() if found},
            "command": one.command,
            "runs": [outcome.document() for outcome in one.outcomes],
            "tuning": [outcome.document() for outcome in one.tuned],
        }

    @property
    def command(self) -> str:
        """The command that goes on with it, or shows it again."""
        asked = self.asked
        options = ["--methods", ",".join(asked.methods), "--budget", asked.budget]
        options += ["--also", asked.also] if asked.also else []
        options += ["--seeds", str(asked.seeds), "--steps", ",".join(map(str, asked.steps))]
        options += ["--samples", str(asked.samples)] if asked.samples else []
        options += ["--tune"] if asked.tune else []
        options += [word for one in self.sets for word in ("--set", one)]
        options += ["--out", next_steps.from_here(self.folder)]
        return next_steps.command("arena", "--teacher", asked.teacher, *options).strip("`")

    def sentence(self) -> str:
        """What was done."""
        seeds = f"{self.asked.seeds} seeds" if self.asked.seeds > 1 else "1 seed"
        return f"Teacher {self.asked.name}, {self.asked.limit.words} for each run, {seeds}."
