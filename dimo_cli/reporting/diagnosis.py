"""What a person should know before trusting a run: drawn from its log, in sentences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from dimo_cli.console import next_steps
from dimo_cli.reporting.charts import number
from dimo_cli.reporting.collect import RunRecord
from dimo_cli.reporting.curves import points_of
from dimo_cli.run_folder.alarms import REMEDIES, Alarms
from dimo_cli.specs.metrics import TITLES, WHOLE_SETS, is_better, title_of

COLLAPSED_SHARE, EARLY_STEPS = 0.05, 500
GAP_FACTOR, GAP_NATS = 1.5, 0.25
WORSE_SHARE, WORSE_POINTS = 0.2, 0.05


@dataclass(frozen=True)
class Finding:
    """A sentence about a run, and how serious it is."""

    state: Literal["warning", "note"]
    text: str


def diagnose(run: RunRecord) -> list[Finding]:
    """All findings about a run, the serious ones first."""
    checks: tuple[Callable[[RunRecord], str | None], ...] = (
        unfinished,
        skipped,
        not_finite,
        collapse,
        auxiliary_left_behind,
        metric_worsened,
    )
    found = [Finding("warning", text) for check in checks if (text := check(run))]
    found += [Finding("warning", text) for text in run.damaged]
    found += [Finding("note", text) for text in [*run.missing, *run.notes]]
    return found


def unfinished(run: RunRecord) -> str | None:
    """A run that stopped before its last step."""
    if run.spec is None or run.is_finished:
        return None
    again = next_steps.resume(run.folder, is_refinement=run.is_refinement)
    older = ""
    if run.student_step is not None:
        older = f" Student, table and comparison are those of step {run.student_step:,}."
    return (
        f"This run is unfinished: it is at step {run.last_step:,} of {run.spec.train.steps:,}. "
        f"Continue it with {again}.{older}"
    )


def skipped(run: RunRecord) -> str | None:
    """Steps that were thrown away."""
    last = run.records[-1] if run.records else {}
    steps, rollbacks = last.get("skipped", 0), last.get("rollbacks", 0)
    if not steps:
        return None
    back = f", and it was rolled back {rollbacks} times with lower rates" if rollbacks else ""
    return f"{steps} steps were skipped because a loss or a gradient was not finite{back}."


def not_finite(run: RunRecord) -> str | None:
    """Numbers in the log that are none."""
    keys = dict.fromkeys(key for record in run.records for key in record)
    bad = [k for k in keys if any(k in r and r[k] is None for r in run.records)]
    return f"Not finite somewhere in the log: {', '.join(bad)}." if bad else None


def curve(run: RunRecord, key: str) -> list[tuple[float, float]]:
    """The finite values of a number by step."""
    return [(x, y) for x, y in points_of(run.records, key) if y is not None]


def collapse(run: RunRecord) -> str | None:
    """An entropy that is nothing, or falls to next to nothing at once."""
    alarms = Alarms()
    for record in run.records:
        if "collapse" in alarms.see(record):
            problem = alarms.active["collapse"]
            return f"{problem[0].upper()}{problem[1:]} {REMEDIES['collapse']}"
    entropy = curve(run, "entropy")
    if not entropy or entropy[0][1] <= 0:
        return None
    limit = COLLAPSED_SHARE * entropy[0][1]
    low = next((step for step, value in entropy if value < limit), None)
    if low is None or low - entropy[0][0] > EARLY_STEPS:
        return None
    return (
        f"The student's entropy was below {COLLAPSED_SHARE:.0%} of its start by step "
        f"{number(low)}. If all samples of a class are alike it collapsed: lower "
        "`student.optimizer.learning_rate`."
    )


def auxiliary_left_behind(run: RunRecord) -> str | None:
    """An auxiliary that lost the student: its gap rises steeply."""
    gap = [value for _, value in curve(run, "auxiliary_gap")]
    if len(gap) < 20:
        return None
    before, after = median(gap[len(gap) // 4 : len(gap) // 2]), median(gap[-len(gap) // 10 :])
    if after < max(GAP_FACTOR * before, before + GAP_NATS):
        return None
    return (
        f"The auxiliary's gap rose from {number(before)} to {number(after)}: it cannot keep up "
        "with the student. Raise `auxiliary.optimizer.learning_rate` or `auxiliary.updates`."
    )


def metric_worsened(run: RunRecord) -> str | None:
    """A student that was better before, by as many images as its closing table has if known."""
    if run.best is not None and run.rows:
        return best_was_better(run, run.rows[-1], run.best)
    metric = run.spec.monitor.metric if run.spec else "fid"
    values = curve(run, metric)
    if not values:
        return None
    step, best = values[0]
    for later, value in values:
        if is_better(metric, value, best):
            step, best = later, value
    last = values[-1][1]
    if not is_much(last, best):
        return None
    monitor = run.spec.monitor if run.spec else None
    counted = monitor is not None and metric not in WHOLE_SETS
    of_images = f" of {monitor.fid_samples:,} images" if monitor and counted else ""
    return (
        f"The last {TITLES[metric]}{of_images} is {number(last)}, but it was {number(best)} "
        f"at step {number(step)}: that checkpoint is kept in "
        f"checkpoints/step-{number(step).replace(',', '')}."
    )


def best_was_better(run: RunRecord, last: dict[str, Any], best: dict[str, Any]) -> str | None:
    """A best checkpoint that is far better than the student, by as many images."""
    metric, value, other = last["metric"], float(last["value"]), float(best["value"])
    if not is_better(metric, other, value) or not is_much(value, other):
        return None
    place = f"`{next_steps.from_here(run.folder)}@best`"
    return (
        f"The student's {title_of(metric)} is {number(value)}, but it was {number(other)} at step "
        f"{best['step']:,}, of {best['images']:,} images each: that checkpoint is {place}."
    )


def is_much(last: float, best: float) -> bool:
    """Whether two values of a metric are further apart than chance puts them."""
    return abs(last - best) > max(WORSE_SHARE * abs(best), WORSE_POINTS)
