"""log.jsonl: a line per logged step, none twice, none of a step that was undone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dimo_cli.errors import SpecError
from dimo_cli.files.reading import MIB, MOST_LOG, check_regular, read_tail
from dimo_cli.files.writing import whole_file

MOST = 16 * MOST_LOG  # bytes of any log, which is read line by line
LONGEST_LINE = MIB
LARGEST = 1e300  # sums and differences of larger numbers overflow


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
            with whole_file(self.path) as temporary, temporary.open("w", encoding="utf-8") as kept:
                kept.writelines(
                    f"{line}\n" for line in lines_in(self.path) if step_of(line) <= step
                )


def lines_in(path: Path) -> Iterator[str]:
    """The lines of a log one by one, however many; what is too long for a step is passed over."""
    check_regular(path)
    if path.stat().st_size > MOST:
        raise SpecError(
            f"`{path}` is too large: no log has more than {MOST // MIB:,} MiB.",
            "Move it out of the run folder: the run goes on without it, and begins a new one.",
        )
    with path.open("rb") as file:
        is_begin = True
        while part := file.readline(LONGEST_LINE):
            is_end = part.endswith(b"\n")
            if is_begin and (is_end or len(part) < LONGEST_LINE):
                yield from part.decode("utf-8", "replace").splitlines()
            is_begin = is_end


def records_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, of a very long one its end; none where there is none, and without those
    that were cut short."""
    if not path.exists():
        return []
    text, _ = read_tail(path, MOST_LOG)
    lines = [json.loads(line) for line in text.splitlines() if step_of(line) < math.inf]
    return [numbers_of(line) for line in lines]


def numbers_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """A line without what is no number; what cannot be reckoned with is None, as not finite."""
    found = {
        key: value if is_number(value) else None
        for key, value in record.items()
        if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
    }
    return {**found, "step": record["step"]}


def is_number(value: Any) -> bool:
    """Whether this is a number to reckon with: finite, and not so large that its sums are not."""
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_real and abs(value) <= LARGEST


def step_of(line: str) -> float:
    """The step of a line; infinite where it has none, as one that a crash has cut short."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf
    return step if type(step) is int else math.inf
