"""Who looks on while a run trains, and what the loop tells and asks."""

from __future__ import annotations

from typing import Any, Protocol

from dimo_cli.teachers.protocol import Backbone


class Watcher(Protocol):
    """Who looks on while a run trains. The engine itself draws and measures nothing."""

    def on_start(self, step: int) -> None:
        """The loop is about to run from `step`."""

    def on_log(self, record: dict[str, Any]) -> None:
        """A line of log.jsonl was written."""

    def on_preview(self, step: int, student: Backbone) -> None:
        """It is time to draw a sample grid of the averaged student."""

    def measure_fid(self, step: int, student: Backbone) -> float:
        """FID of the averaged student."""

    def look(self, step: int, student: Backbone) -> dict[str, float]:
        """Further numbers for the log, where it is time for them; called at step 0 as well."""

    def should_stop(self) -> str | None:
        """Why to end the run, if there is a reason to."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint is to keep of the watcher."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""

    def on_note(self, message: str) -> None:
        """Something happened that the user should know: a skipped step, a rollback."""
