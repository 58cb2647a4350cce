"""Early stopping against reward hacking: what must not fall while a reward rises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Guard:
    """Remembers numbers from the first look on, and says when one has been low for too long."""

    def __init__(self, patience: int, tolerance: float) -> None:
        """A number is low below its first value by more than `tolerance` of that value's size."""
        self.patience, self.tolerance = patience, tolerance
        self.first: dict[str, float] = {}
        self.low: dict[str, int] = {}
        self.reason: str | None = None
        """Why to stop, once it is time to."""

    def see(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take in a look."""
        for name, value in numbers.items():
            start = self.first.setdefault(name, value)
            is_low = value < start - self.tolerance * abs(start)
            self.low[name] = self.low.get(name, 0) + 1 if is_low else 0
            if self.low[name] >= self.patience:
                self.reason = (
                    f"Stopped at step {step}: {name.replace('_', ' ')} fell from {start:.3g} to "
                    f"{value:.3g} and stayed there for {self.patience} looks."
                )

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"first": dict(self.first), "low": dict(self.low)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        self.first, self.low = dict(state.get("first", {})), dict(state.get("low", {}))
