"""All that dimo writes in a run folder, by name: what else is there is somebody's own."""

from __future__ import annotations

import os
from fnmatch import fnmatch
from pathlib import Path

from dimo_cli.files.locking import LOCK
from dimo_cli.files.writing import OLD, TEMPORARY
from dimo_cli.run_folder.effort import EFFORT
from dimo_cli.run_folder.identity import RUN_FILE
from dimo_cli.run_folder.listing import LOG, RUN_SPEC
from dimo_cli.run_folder.naming import CHECKPOINTS
from dimo_cli.run_folder.origins import NOTES, ORIGINS
from dimo_cli.run_folder.snapshots import SNAPSHOTS
from dimo_cli.run_folder.state import DIVERGED, SUMMARY

WRITTEN = (
    *(CHECKPOINTS, LOG, EFFORT, ORIGINS, NOTES, SNAPSHOTS, SUMMARY, DIVERGED),
    *("student", "samples", "comparison", "report.html"),
)
BESIDE = (RUN_SPEC, RUN_FILE, LOCK, "student-ema-*", "wandb", ".tmp-*", f"{OLD}*", f".*{TEMPORARY}")
TRACKED = "events.out.tfevents.*"  # of TensorBoard, in a folder with the name of the project


def left_overs(folder: Path) -> list[str]:
    """What is in a folder that a new run would write over; empty folders are nothing."""
    return [name for name in WRITTEN if (folder / name).is_file() or is_filled(folder / name)]


def is_filled(folder: Path) -> bool:
    """Whether something is in a folder."""
    return folder.is_dir() and any(folder.iterdir())


def foreign_files(run: Path) -> int:
    """How many files in a run folder are not dimo's."""
    found = 0
    for place, _, names in os.walk(run):
        inside = Path(place).relative_to(run).parts
        found += sum(not is_own(inside[0] if inside else name, name) for name in names)
    return found


def is_own(top: str, name: str) -> bool:
    """Whether a file by this name, in this entry of a run folder, is of dimo's making."""
    return any(fnmatch(top, own) for own in (*WRITTEN, *BESIDE)) or fnmatch(name, TRACKED)
