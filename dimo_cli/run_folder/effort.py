"""How long a run trained, and on what: a line of effort.jsonl each time it was started.

It lies in the run folder and not in the student's, whose bytes depend on no clock and no machine.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import torch

from dimo_cli.distributed.ranks import is_first
from dimo_cli.errors import SpecError, counted
from dimo_cli.files.reading import MOST_DOCUMENT, read_text
from dimo_cli.files.untrusted import parse_json

EFFORT = "effort.jsonl"


@dataclass(frozen=True, slots=True)
class Effort:
    """The training time of a run, over all the times that it was started."""

    hours: float
    hardware: str | None
    ended: str | None = None
    """The day on which it last ended, in UTC, as 2026-01-31; None in runs of an earlier dimo."""
    is_complete: bool = True
    """False where a start was killed and left no line, so that it took at least these hours."""


def hardware_name(device: torch.device, processes: int) -> str:
    """What a run is on: `2 x NVIDIA H100`, or the kind of CPU with its threads."""
    if device.type == "cuda":
        return f"{processes} x {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    each = f"{processes} processes of " if processes > 1 else ""
    return f"CPU ({platform.machine()}, {each}{counted(threads, 'thread')})"


def rate(amount: float, seconds: float) -> float:
    """How much there is of something to each second; 0 where the clock stood still meanwhile."""
    return amount / seconds if seconds > 0 else 0.0


@contextmanager
def recorded_effort(
    folder: Path, hardware: str, steps: Callable[[], tuple[int | None, int]]
) -> Iterator[None]:
    """Add a line when the work inside ends, however it ends; `steps` tells its first and last.

    Work whose first step is None never began. Of several processes the first one writes.
    """
    started = time.perf_counter()
    try:
        yield
    finally:
        first, last = steps()
        if first is not None and is_first():
            line = {
                "first_step": first,
                "last_step": last,
                "seconds": round(time.perf_counter() - started, 3),
                "hardware": hardware,
                "ended": datetime.now(UTC).date().isoformat(),
            }
            with (folder / EFFORT).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def effort_of(run: Path) -> Effort | None:
    """What a run took so far; None where nothing was recorded."""
    path = run / EFFORT
    if not path.is_file():
        return None
    try:
        lines = read_text(path, MOST_DOCUMENT).splitlines()
        starts: list[dict[str, Any]] = [parse_json(line) for line in lines if line.strip()]
        hours = sum(start["seconds"] for start in starts) / 3600
        hardware = ", ".join(dict.fromkeys(start["hardware"] for start in starts))
        reached, is_complete = 0, True
        for start in starts:
            is_complete = is_complete and start["first_step"] <= reached
            reached = start["last_step"]
        ended = starts[-1].get("ended") if starts else None
        ended = date.fromisoformat(ended).isoformat() if ended is not None else None
    except (ValueError, KeyError, TypeError, OverflowError, AttributeError):
        raise SpecError(
            f"`{path}` is damaged: the hours of this run cannot be read from it.",
            "Remove it, and give them with `--hours` and `--hardware`.",
        ) from None
    return Effort(hours, hardware, ended, is_complete) if starts else None
