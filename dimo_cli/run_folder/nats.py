"""A run's KL to its teacher, read off its log: the mean of enough steps to mean something."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from dimo_cli.run_folder.log import records_of

KEY = "teacher_kl"
MOST = 100
"""Logged steps that are averaged: one step alone is mostly noise."""


@dataclass(frozen=True, slots=True)
class TeacherKl:
    """The reverse KL of a student to its teacher in nats per token, less the auxiliary's excess."""

    value: float
    error: float | None
    """One standard error of the mean, as if logged steps were independent; None: of one alone."""
    steps: int
    """How many logged steps it is the mean of."""

    @property
    def words(self) -> str:
        """The number and what it is the mean of."""
        spread = "" if self.error is None else f" ± {self.error:.2g}"
        over = "the last logged step" if self.steps == 1 else f"the last {self.steps} logged steps"
        return f"{self.value:.3g}{spread} nats per token, mean over {over}"


def teacher_kl(records: Sequence[Mapping[str, Any]]) -> TeacherKl | None:
    """That of the last lines of a log; None where a run has not measured it."""
    logged = (record.get(KEY) for record in records)
    values = [float(v) for v in logged if isinstance(v, (int, float)) and math.isfinite(v)][-MOST:]
    if not values:
        return None
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return TeacherKl(fmean(values), error, len(values))


def teacher_kl_of(run: Path) -> TeacherKl | None:
    """That of a run folder."""
    return teacher_kl(records_of(run / "log.jsonl"))
