"""Early stopping against reward hacking: what must not fall while a reward rises."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

SUSPICIOUS = 2  # low looks in a row


class Guard:
    """Remembers numbers from the first look on, and says when one has been low for too long."""

    def __init__(self, patience: int, tolerance: float, rising: Collection[str] = ()) -> None:
        """A number is low if it fell by more than `tolerance` of the size of what it fell from.

        That is its first value. Numbers in `rising` are expected to grow, so for them it is the
        best one: a student that got worse again is stopped before it is worse than it began.
        """
        self.patience, self.tolerance, self.rising = patience, tolerance, rising
        self.high: dict[str, float] = {}
        self.low: dict[str, int] = {}
        self.suspicion: str | None = None
        """What has been low for two looks: too early to stop, and time to say it."""
        self.reason: str | None = None
        """Why to stop, once it is time to."""

    def see(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take in a look."""
        self.suspicion = None
        for name, value in numbers.items():
            high = self.high.setdefault(name, value)
            if name in self.rising:
                high = self.high[name] = max(high, value)
            is_low = value < high - self.tolerance * abs(high)
            self.low[name] = self.low.get(name, 0) + 1 if is_low else 0
            if self.low[name] >= min(SUSPICIOUS, self.patience):
                self.suspicion = (
                    f"at step {step:,} {name.replace('_', ' ')} has fallen from {high:.3g} to "
                    f"{value:.3g}: the student may be cheating its rewards."
                )
            if self.low[name] >= self.patience:
                self.reason = (
                    f"Stopped at step {step}: {name.replace('_', ' ')} fell from {high:.3g} to "
                    f"{value:.3g} and stayed there for {self.patience} looks."
                )

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"high": dict(self.high), "low": dict(self.low)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        self.high, self.low = dict(state.get("high", {})), dict(state.get("low", {}))
