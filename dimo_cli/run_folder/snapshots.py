"""Snapshots of a run's two further averages, out of which `dimo ema` makes others.

RUN/ema/snapshots.json             sizes and hashes
RUN/ema/step-000100.safetensors    both averages after a step: the weights that are trained
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.files.reading import MOST_DOCUMENT, read_text
from dimo_cli.files.writing import write_whole_text
from dimo_cli.run_folder.identity import identity_of
from dimo_cli.run_folder.verifying import facts_of
from dimo_cli.specs.snapshots import SnapshotList

SNAPSHOTS, LIST = "ema", "snapshots.json"  # in a run folder
SNAPSHOT = re.compile(r"step-(\d+)\.safetensors$")
PARTS = ("short", "long")
"""The two averages of a snapshot: each weight is called PART/NAME."""


def snapshot_path(run: Path, step: int) -> Path:
    """The file of a step."""
    return run / SNAPSHOTS / f"step-{step:06d}.safetensors"


def snapshot_steps(run: Path) -> list[int]:
    """Steps that have a snapshot, in order."""
    root = run / SNAPSHOTS
    names = [path.name for path in root.iterdir()] if root.is_dir() else []
    return sorted(int(match[1]) for name in names if (match := SNAPSHOT.match(name)))


def list_snapshots(run: Path, lengths: tuple[float, float], fresh: Path | None = None) -> None:
    """Write the list of the snapshots that are there; only `fresh`, and unknown ones, are read."""
    known = read_list(run).files if (run / SNAPSHOTS / LIST).is_file() else {}
    paths = [snapshot_path(run, step) for step in snapshot_steps(run)]
    files = {
        path.name: known[path.name] if path.name in known and path != fresh else facts_of(path)
        for path in paths
    }
    found = SnapshotList(run=identity_of(run), lengths=lengths, files=files)
    write_whole_text(run / SNAPSHOTS / LIST, found.model_dump_json(indent=1) + "\n")


def read_list(run: Path) -> SnapshotList:
    """The list of a run's snapshots; refused where there is none, or a damaged one."""
    path = run / SNAPSHOTS / LIST
    try:
        return SnapshotList.model_validate_json(read_text(path, MOST_DOCUMENT))
    except FileNotFoundError:
        raise MissingError(
            f"`{run}` has no snapshots of averages.",
            "Train with `--set student.ema.post_hoc.every=100`, or as often as you like; the "
            "snapshots are there from then on. A run that has begun without them cannot add them.",
        ) from None
    except (OSError, ValueError, RecursionError, SpecError):
        raise MissingError(
            f"`{path}` cannot be read: it is damaged.",
            f"See what else is with `dimo check {shlex.quote(str(run))}`.",
        ) from None
