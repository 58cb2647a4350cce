"""Who looks on while a run trains, and what the loop tells and asks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol

from dimo_cli.files.png import Pixels
from dimo_cli.teachers.protocol import Backbone


class Watcher(Protocol):
    """Who looks on while a run trains. The engine itself draws and measures nothing."""

    def on_start(self, step: int) -> None:
        """The loop is about to run from `step`."""

    def on_step(self, step: int) -> None:
        """A step is done, as far as the host knows: it must not wait for the card."""

    def on_log(self, record: dict[str, Any]) -> None:
        """A line of log.jsonl was written."""

    def on_preview(self, step: int, student: Backbone) -> Pixels | None:
        """It is time to draw a sample grid of the averaged student; the grid, for a tracker."""

    def measure_metric(self, step: int, student: Backbone) -> float:
        """`monitor.metric` of the averaged student."""

    def looks_at(self, step: int) -> bool:
        """Whether it is time to look; asked at step 0 as well."""

    def look(self, step: int, student: Backbone) -> dict[str, float]:
        """Further numbers for the log."""

    def should_stop(self) -> str | None:
        """Why to end the run, if there is a reason to."""

    def should_pause(self) -> bool:
        """Whether to leave the run here as Ctrl-C does: with a checkpoint, to be continued."""

    def on_checkpoint(self, step: int, folder: Path) -> None:
        """A checkpoint of a step that was just taken is written."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint is to keep of the watcher."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""

    def on_note(self, message: str) -> None:
        """Something happened that the user should know: a skipped step, a rollback."""


class Idle:
    """Does nothing and wants nothing: a watcher writes down only what it does."""

    def on_start(self, step: int) -> None:
        return

    def on_step(self, step: int) -> None:
        return

    def on_log(self, record: dict[str, Any]) -> None:
        return

    def on_preview(self, step: int, student: Backbone) -> Pixels | None:
        return None

    def measure_metric(self, step: int, student: Backbone) -> float:
        return math.nan

    def looks_at(self, step: int) -> bool:
        return False

    def look(self, step: int, student: Backbone) -> dict[str, float]:
        return {}

    def should_stop(self) -> str | None:
        return None

    def should_pause(self) -> bool:
        return False

    def on_checkpoint(self, step: int, folder: Path) -> None:
        return

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        return

    def on_note(self, message: str) -> None:
        return


class Bystander(Idle):
    """Who looks on in every rank but the first: silent, and with the same timetable."""

    def __init__(self, watcher: Watcher) -> None:
        self.looks_at = watcher.looks_at  # type: ignore[method-assign]
