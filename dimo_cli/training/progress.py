"""Where a run is: its counters, and the best value of its metric so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dimo_cli.errors import SpecError
from dimo_cli.specs.metrics import is_better


def check_goes_on(reached: int, steps: int) -> None:
    """Refuse to end a run before the step that it has reached."""
    if reached > steps:
        raise SpecError(
            f"`train.steps` is {steps}, but the run is at step {reached} already.",
            "Give a larger `--set train.steps=`, or start a new run.",
        )


@dataclass
class Progress:
    """The counters of a run; saved in every checkpoint."""

    step: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    rollbacks: int = 0
    best_metric: str | None = None
    best_value: float | None = None
    best_step: int | None = None

    @classmethod
    def read(cls, state: Mapping[str, Any]) -> Progress:
        """The counters of a checkpoint; older ones knew the FID only."""
        counters = dict(state)
        if "best_fid" in counters:
            fid = counters.pop("best_fid")
            counters |= {"best_value": fid, "best_metric": None if fid is None else "fid"}
        return cls(**counters)

    def note_metric(self, metric: str, value: float) -> bool:
        """Whether a value is the best so far; one of another metric is not compared with."""
        best = self.best_value if self.best_metric == metric else None
        if not math.isfinite(value) or (best is not None and not is_better(metric, value, best)):
            return False
        self.best_metric, self.best_value, self.best_step = metric, value, self.step
        return True
