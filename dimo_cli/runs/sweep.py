"""Short runs that differ in some settings, and which of them did best.

FOLDER/learning_rate=1e-05/   an ordinary run folder each
FOLDER/sweep.json             what came of them
FOLDER/sweep.svg              the metric over the values
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dimo_cli.console import next_steps
from dimo_cli.console.live import View
from dimo_cli.errors import DivergedError, SpecError
from dimo_cli.files.writing import write_whole_text
from dimo_cli.reporting.sweep_picture import Dot, picture
from dimo_cli.run_folder.alarms import Alarms
from dimo_cli.run_folder.log import records_of
from dimo_cli.runs.distill import distill, flat
from dimo_cli.runs.prompts import with_commits
from dimo_cli.specs.checkpoint import fixed_settings
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.explain import leaves
from dimo_cli.specs.metrics import is_better, title_of
from dimo_cli.specs.render import scalar
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.specs.sweep import Sweep, Trial

TABLE, PICTURE = "sweep.json", "sweep.svg"


@dataclass(frozen=True)
class Outcome:
    """What one run of a sweep came to."""

    trial: Trial
    value: float | None
    """The run's metric at its last step; None where it did not get there, or was not finite."""
    alarms: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """For machines."""
        found = {"run": str(self.trial.folder), "settings": dict(self.trial.values)}
        return {**found, "value": self.value, "alarms": list(self.alarms)}


@dataclass(frozen=True)
class SweepResult:
    """All runs of a sweep in their order."""

    sweep: Sweep
    outcomes: tuple[Outcome, ...]

    @property
    def metric(self) -> str:
        """What they are compared by."""
        return self.sweep.trials[0].plan.spec.monitor.metric

    @property
    def best(self) -> Outcome | None:
        """The run with the best value; None where none has one."""
        best: Outcome | None = None
        for outcome in self.outcomes:
            value = outcome.value
            if value is not None and (
                best is None or is_better(self.metric, value, best.value or 0.0)
            ):
                best = outcome
        return best

    def next_step(self, start: str) -> str:
        """The command that goes on from the best run, to as many steps as its preset takes."""
        assert self.best is not None
        return continuation(self.best.trial, self.sweep.usual, start)

    def document(self, start: str) -> dict[str, Any]:
        """For machines."""
        best = self.best
        return {
            "metric": self.metric,
            "steps": self.sweep.trials[0].plan.spec.train.steps,
            "best": best.document() if best else None,
            "continue": self.next_step(start).strip("`") if best else None,
            "runs": [outcome.document() for outcome in self.outcomes],
        }


def run_sweep(sweep: Sweep, begin: Callable[[int, Trial], View]) -> SweepResult:
    """Carry out all runs that are not finished; `begin` makes the view of each that is run."""
    sweep = replace(sweep, trials=tuple(map(with_its_commits, sweep.trials)))
    for trial in sweep.trials:
        refuse_other_run(trial)
    for index, trial in enumerate(sweep.trials):
        if not is_done(trial):
            view = begin(index, trial)
            try:
                distill(
                    trial.plan.spec,
                    trial.folder,
                    view,
                    (trial.folder / "run.yaml").is_file(),
                    trial.plan.origins,
                )
            except DivergedError as problem:  # as much a result as a number
                view.note(problem.message)
            finally:
                view.stop()
    return SweepResult(sweep, tuple(map(outcome_of, sweep.trials)))


def with_its_commits(trial: Trial) -> Trial:
    """A trial whose prompts are those of one commit, also when the sweep goes on another day."""
    return replace(trial, plan=replace(trial.plan, spec=with_commits(trial.plan.spec)))


def refuse_other_run(trial: Trial) -> None:
    """Refuse a folder whose run has other settings than the sweep would give it."""
    path = trial.folder / "run.yaml"
    if not path.is_file():
        return
    found = resolve_spec(DistillSpec, file=path, environment={}).spec
    before, now = (flat(fixed_settings(spec)) for spec in (found, trial.plan.spec))
    changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if changed:
        told = [f"`{key}` {before.get(key)} there, {now.get(key)} here" for key in changed]
        raise SpecError(
            f"`{trial.folder}` is of a sweep with other settings: {', '.join(told)}.",
            "Choose another folder with `--out`.",
        )


def is_done(trial: Trial) -> bool:
    """Whether the run of a trial has its student and its number; it may have gone on since."""
    has_student = (trial.folder / "student" / "dimo.json").is_file()
    return has_student and last_record(trial) is not None


def last_record(trial: Trial) -> dict[str, Any] | None:
    """The line of the log with the number of a trial."""
    monitor, last = trial.plan.spec.monitor, trial.plan.spec.train.steps
    lines = records_of(trial.folder / "log.jsonl")
    return next((one for one in lines if one["step"] == last and monitor.metric in one), None)


def outcome_of(trial: Trial) -> Outcome:
    """What the folder of a trial tells."""
    record, last = last_record(trial) or {}, trial.plan.spec.train.steps
    found = record.get(trial.plan.spec.monitor.metric)
    value = float(found) if isinstance(found, (int, float)) and math.isfinite(found) else None
    lines = [one for one in records_of(trial.folder / "log.jsonl") if one["step"] <= last]
    alarms = Alarms()
    for line in lines:
        alarms.see(line)
    told = list(alarms.active)
    if lines and lines[-1].get("skipped"):
        told.append(f"{lines[-1]['skipped']} steps skipped")
    if value is None:
        told.append("no number")
    return Outcome(trial, value, tuple(told))


def continuation(trial: Trial, usual: DistillSpec, start: str) -> str:
    """The command that gives a trial as many steps as usual.

    A rate that falls until the end of the run has fallen already: then it is a new run.
    """
    spec = trial.plan.spec
    longer = spec.model_copy(update={"train": usual.train, "monitor": usual.monitor})
    if fixed_settings(longer) != fixed_settings(spec):
        kind = "--spec" if start.endswith((".yaml", ".yml")) else "--preset"
        own = [
            path for path, origin in trial.plan.origins.items() if origin == f"flag --set {path}"
        ]
        plain = {leaf.path: leaf.value for leaf in leaves(spec)}
        sets = [f"{path}={scalar(plain[path])}" for path in own if path in plain]
        sets += [f"{path}={value}" for path, value in trial.values.items()]
        words = [word for setting in sets for word in ("--set", setting)]
        return next_steps.command("distill", kind, start, *words)
    monitor = ("fid_every", "table_samples")
    back = [f"monitor.{name}={getattr(usual.monitor, name)}" for name in monitor]
    return next_steps.resume(trial.folder, sets=[f"train.steps={usual.train.steps}", *back])


def write_result(result: SweepResult, folder: Path, start: str) -> None:
    """The table for machines, and the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole_text(folder / TABLE, json.dumps(result.document(start), indent=2) + "\n")
    write_whole_text(folder / PICTURE, drawn(result))


def drawn(result: SweepResult) -> str:
    """The metric over the values of the first setting; a curve for each choice of the others."""
    first, names = result.sweep.over[0], result.sweep.names
    curves: dict[str, list[Dot]] = {}
    for outcome in result.outcomes:
        others = [f"{names[p]}={v}" for p, v in outcome.trial.values.items() if p != first.path]
        dot = Dot(outcome.trial.values[first.path], outcome.value, outcome is result.best)
        curves.setdefault(", ".join(others), []).append(dot)
    steps = result.sweep.trials[0].plan.spec.train.steps
    return picture(f"{title_of(result.metric)} after {steps:,} steps", first.path, curves)
