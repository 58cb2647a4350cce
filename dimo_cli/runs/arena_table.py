"""What came of an arena, as numbers, as Markdown, and as a page takes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from dimo_cli.cards.markdown import block, words
from dimo_cli.console import next_steps
from dimo_cli.planning.hours import words as time_words
from dimo_cli.reporting.arena_page import ArenaPage, ArenaTable
from dimo_cli.specs.arena import TUNING_SEED, ArenaSpec
from dimo_cli.specs.metrics import is_better, title_of

# The 97.5 % points of Student's t for 1, 2, ... degrees of freedom.
# fmt: off
T = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157,
    2.228139, 2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922,
    2.093024,
)
# fmt: on
NOTHING = "-"
PREVIEW = Path("student", "preview.png")


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
                said(one.over_seeds(lambda o: o.memory_gib)),
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
            "metrics": self.metrics,
            "results": [self.of_method(one) for one in self.contenders],
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


COSTS = ["method", "KL to teacher", "forwards", "steps", "training", "ms a step", "GiB"]
GRID = ["method", "rates times", "number", ""]
REFUSALS = ["method", "why it cannot be used"]
PROBLEMS = ["method", "what went wrong"]


def page_of(result: ArenaResult) -> ArenaPage:
    """All that the page shows."""
    contenders, steps = result.contenders, result.asked.steps
    curves = {
        metric: {
            one.title: [(k, found.mean) for k in steps if (found := one.number(metric, k))]
            for one in contenders
        }
        for metric in result.metrics
    }
    tables = [
        ArenaTable(title.lower().replace(" ", "-"), title, about, head, rows)
        for title, about, head, rows in parts_of(result)
    ]
    previews = [(one.title, one.outcomes[0].run / PREVIEW) for one in contenders if one.outcomes]
    commands = [result.command, *(one.command for one in contenders if one.command)]
    name = result.asked.name
    return ArenaPage(name, result.sentence(), tables, curves, previews, commands)


def said(found: Interval | None) -> str:
    """A cell."""
    return found.words if found else NOTHING


def count_of(found: Interval | None) -> str:
    """A cell of whole numbers, which are mostly the same for all seeds."""
    return f"{found.mean:,.0f}" if found else NOTHING


def time_of(found: Interval | None) -> str:
    """A cell of a time."""
    return time_words(found.mean) if found else NOTHING


def parts_of(result: ArenaResult) -> list[tuple[str, str, list[str], list[list[str]]]]:
    """The tables that have rows: title, what to know of it, head and rows."""
    spread = {1: "Of one seed, without interval.", 2: "Mean and range of two seeds."}
    told = spread.get(result.asked.seeds, "Mean and 95 % interval over seeds, by Student's t.")
    tables = [
        ("Numbers", told, result.head, result.rows()),
        (
            "What they took",
            "KL in nats per token, where it is logged; time and memory of training, without "
            "measuring. A CPU does not tell the memory of one run from that of others.",
            COSTS,
            result.costs(),
        ),
        (
            "Learning rates",
            f"Times those of the preset, on seed {TUNING_SEED}, which is not reported; chosen by "
            "the first metric in the fewest steps.",
            GRID,
            result.grid(),
        ),
        ("Refused", "", REFUSALS, result.refusals()),
        ("Without a student", "", PROBLEMS, result.problems()),
    ]
    return [one for one in tables if one[3]]


def markdown(result: ArenaResult) -> str:
    """The tables and the commands."""
    lines = [f"# Arena of {words(result.asked.name)}", "", result.sentence(), ""]
    lines += [block(result.command, "sh"), ""]
    for title, about, head, rows in parts_of(result):
        lines += [f"## {title}", ""]
        lines += [about, ""] if about else []
        lines += [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
        lines += [f"| {' | '.join(words(cell) if cell else '' for cell in row)} |" for row in rows]
        lines.append("")
    commands = [one.command for one in result.contenders if one.command]
    if commands:
        lines += ["## One run of each", "", block("\n".join(commands), "sh"), ""]
    return "\n".join(lines)
