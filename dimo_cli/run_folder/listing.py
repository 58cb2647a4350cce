"""What a glance at a run folder tells: how it stands, how good it is, and how large. No torch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from dimo_cli.errors import DimoError, MissingError, SpecError
from dimo_cli.files.locking import is_locked
from dimo_cli.files.reading import MOST_LOG, read_tail
from dimo_cli.files.untrusted import parse_json
from dimo_cli.files.writing import write_whole_text
from dimo_cli.run_folder.naming import newest_facts, read_json
from dimo_cli.run_folder.state import DIVERGED, SUMMARY, summary_of
from dimo_cli.specs.metrics import TITLES
from dimo_cli.specs.resolve import load_yaml

State = Literal["running", "interrupted", "finished", "diverged"]
RUN_SPEC, LOG = "run.yaml", "log.jsonl"
OTHER_MARKS = ("run.json", LOG, "checkpoints", SUMMARY)  # run.yaml alone may be anybody's spec
TOUCHED = (LOG, SUMMARY, DIVERGED, RUN_SPEC)


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run in a row of a table."""

    path: str
    state: State
    method: Literal["distill", "refine"]
    teacher: str | None
    step: int
    steps: int | None
    """As many as were asked for."""
    metric: str | None
    value: float | None
    """The closing table's, or the newest on the way; None where nothing was measured."""
    bytes: int
    seconds_since: float
    """Since something was written to it."""

    def as_dict(self) -> dict[str, Any]:
        """All of it for JSON."""
        return asdict(self)


def is_run(folder: Path) -> bool:
    """Whether a folder is one that a run was started in."""
    return (folder / RUN_SPEC).is_file() and any((folder / mark).exists() for mark in OTHER_MARKS)


def check_run(folder: Path) -> None:
    """Refuse what is no run folder."""
    if not folder.is_dir():
        raise MissingError(f"`{folder}` is no folder.", "See all runs with `dimo runs list`.")
    if not is_run(folder):
        raise MissingError(
            f"`{folder}` holds no run: there is no run.yaml with a log or checkpoints beside it.",
            "See all runs with `dimo runs list`.",
        )


def find_runs(folder: Path) -> Iterator[Path]:
    """The runs in a folder, by name; a run is not looked into, and links are not followed."""
    if not folder.is_dir():
        raise MissingError(
            f"There is no folder `{folder}`.",
            "Name the folder that runs are in, or start one with `dimo distill --preset digits`.",
        )
    for place, inner, _ in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if is_run(Path(place)):
            inner.clear()
            yield Path(place)


def facts_of_run(run: Path) -> RunFacts:
    """What there is to know of a run without reading its weights; damaged parts count as absent."""
    check_run(run)
    values = spec_values(run)
    summary, records = summary_of(run), log_records(run)
    trained, step = student_step(run), newest_step(run, records)
    metric, value = measured(values, summary, records)
    return RunFacts(
        path=str(run),
        state=state_of(run, trained, step, is_measured=bool(summary)),
        method="refine" if "gan" in values else "distill",
        teacher=within(values, "teacher", "name", str),
        step=step,
        steps=within(values, "train", "steps", int),
        metric=metric,
        value=value,
        bytes=sum(size for _, size in files_of(run)),
        seconds_since=age_of(run),
    )


def state_of(run: Path, trained: int | None, step: int, *, is_measured: bool) -> State:
    """Whether a run is going on, and if not, how it ended."""
    if is_locked(run):
        return "running"
    if (run / DIVERGED).is_file():
        return "diverged"
    is_whole = trained is not None and trained >= step and is_measured
    return "finished" if is_whole else "interrupted"


def spec_values(run: Path) -> dict[str, Any]:
    """run.yaml as it is written; empty where it cannot be read."""
    try:
        return load_yaml(run / RUN_SPEC).values
    except (DimoError, OSError):
        return {}


def within(values: dict[str, Any], group: str, name: str, kind: type) -> Any:
    """A setting, if it is there and of its kind."""
    found = values.get(group)
    value = found.get(name) if isinstance(found, dict) else None
    return value if type(value) is kind else None


def student_step(run: Path) -> int | None:
    """The step that the student in a run folder is of."""
    return within(read_json(run / "student" / "dimo.json"), "training", "steps", int)


def newest_step(run: Path, records: list[dict[str, Any]]) -> int:
    """The last step that left a trace."""
    checkpoint = newest_facts(run).get("step")
    known = [checkpoint, student_step(run), *(record["step"] for record in records[-1:])]
    return max((step for step in known if type(step) is int), default=0)


def log_records(run: Path) -> list[dict[str, Any]]:
    """The lines of the log that can be read."""
    found = []
    try:
        text, _ = read_tail(run / LOG, MOST_LOG)
    except (OSError, SpecError):
        return []
    for line in text.splitlines():
        try:
            record = parse_json(line)
        except ValueError:
            continue
        if isinstance(record, dict) and type(record.get("step")) is int:
            found.append(record)
    return found


def measured(
    values: dict[str, Any], summary: dict[str, Any], records: list[dict[str, Any]]
) -> tuple[str | None, float | None]:
    """The newest number of a run's metric: the closing table's goes before the log's."""
    wanted = within(values, "monitor", "metric", str)
    names = [wanted] if wanted in TITLES else list(TITLES)
    for name in names:
        if is_finite(value := summary.get(f"{name}_student")):
            return name, value
    for record in reversed(records):
        for name in names:
            if is_finite(value := record.get(name)):
                return name, value
    return (wanted if wanted in TITLES else None), None


def is_finite(value: Any) -> bool:
    """Whether this is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def files_of(run: Path) -> Iterator[tuple[Path, int]]:
    """Every file in a folder with its size; what vanishes meanwhile is left out."""
    for place, _, names in os.walk(run):
        for name in names:
            path = Path(place) / name
            try:
                yield path, path.lstat().st_size
            except OSError:
                continue


def age_of(run: Path) -> float:
    """Seconds since a run last wrote something, for people to read: a clock may have been set."""
    times = [path.stat().st_mtime for name in TOUCHED if (path := run / name).is_file()]
    now = datetime.now().timestamp()
    return max(0.0, now - max(times, default=now))


def keep_divergence(run: Path, reason: str) -> None:
    """Write down that a run could not be recovered, and why."""
    write_whole_text(run / DIVERGED, json.dumps({"reason": reason}, indent=2) + "\n")
