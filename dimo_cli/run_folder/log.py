"""log.jsonl: a line per logged step, none twice, none of a step that was undone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from dimo_cli.files.writing import write_whole_text


class RunLog:
    """The log of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: dict[str, Any]) -> None:
        """Add a line."""
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def truncate(self, step: int) -> None:
        """Drop the lines of steps after `step`: they will be written again."""
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [line for line in lines if step_of(line) <= step]
            write_whole_text(self.path, "".join(f"{line}\n" for line in kept))


def records_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; none where there is none, and without those that were cut short."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [json.loads(line) for line in lines if math.isfinite(step_of(line))]


def step_of(line: str) -> float:
    """The step of a line; infinite where a crash has cut it short."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf
