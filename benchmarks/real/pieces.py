"""Pieces of a benchmark, of which one that fails loses nothing of the others."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch

from benchmarks.measuring import Call, environment, seconds

Keep = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Setting:
    """Where a benchmark runs, at which sizes, and for how long it may go on measuring."""

    device: torch.device
    tiny: bool
    rounds: int
    seconds: float = 12.0
    """Of measuring, for each group of calls; compiling is not counted."""


@dataclass(frozen=True)
class Row:
    """One number that something is asked of, or that is only told (asked: None)."""

    what: str
    got: float
    asked: float | None = None
    better: Literal["lower", "higher"] = "lower"
    unit: str = ""
    before: float | None = None
    """What the same was on 2026-11-26, on an H200."""

    @property
    def is_met(self) -> bool | None:
        """Whether what was asked is there; None: nothing was asked."""
        if self.asked is None:
            return None
        return self.got <= self.asked if self.better == "lower" else self.got >= self.asked


@dataclass
class Found:
    """What a piece measured: its rows, and everything else that is worth keeping."""

    rows: list[Row]
    details: dict[str, Any] = field(default_factory=dict)


Piece = Callable[[Setting], Found]


def measure_pieces(
    benchmark: str, pieces: Mapping[str, Piece], setting: Setting, keep: Keep
) -> dict[str, Any]:
    """Every piece in turn; what there is so far is kept after each one."""
    document: dict[str, Any] = {
        "benchmark": benchmark,
        "sizes": "tiny" if setting.tiny else "real",
        **environment(setting.device),
        "rows": [],
        "details": {},
        "failed": {},
        "piece_seconds": {},
    }
    for name, piece in pieces.items():
        started = time.perf_counter()
        try:
            found = piece(setting)
        except Exception as error:
            document["failed"][name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        else:
            document["rows"] += [line_of(row, setting) for row in found.rows]
            document["details"][name] = found.details
        document["piece_seconds"][name] = time.perf_counter() - started
        keep(document)
        let_go(setting.device)
    return document


def line_of(row: Row, setting: Setting) -> dict[str, Any]:
    """A row as it is kept; nothing is asked of tiny sizes, and nothing stands beside them."""
    if setting.tiny:
        row = replace(row, asked=None, before=None)
    return asdict(row) | {"met": row.is_met}


def let_go(device: torch.device) -> None:
    """Give back what a piece held, so that the next one has the whole card."""
    gc.collect()
    if device.type == "cuda":
        try:
            torch.cuda.empty_cache()
        except RuntimeError:  # a card that has failed fails at everything: the next piece says so
            return


def alternate(calls: Mapping[str, Call], setting: Setting) -> dict[str, Any]:
    """Median, least and most seconds of calls that take turns, and each one's first call.

    A first call compiles, and a second one may yet; then there are rounds until time is up, three
    at least.
    """
    first = {name: seconds(call) for name, call in calls.items()}
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    until = time.perf_counter() + setting.seconds
    for number in range(setting.rounds):
        if number >= 3 and time.perf_counter() > until:
            break
        for name, call in calls.items():
            times[name].append(seconds(call))
    return {
        name: {
            "median": statistics.median(values),
            "least": min(values),
            "most": max(values),
            "rounds": len(values),
            "first": first[name],
        }
        for name, values in times.items()
    }
