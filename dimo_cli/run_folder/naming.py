"""Runs and checkpoints by name, as a command line and its completion know them. No specs here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from dimo_cli.errors import MissingError, SpecError, nearest
from dimo_cli.files.reading import MOST_DOCUMENT, read_text

CHECKPOINTS = "checkpoints"  # in a run folder
STEP_FOLDER = re.compile(r"step-(\d+)$")
CONTENTS = "contents.json"
BEST, LAST = "best", "last"


def free_folder(parent: Path, name: str) -> Path:
    """runs/NAME, or runs/NAME-2 and so on where that is taken."""
    folder, number = parent / name, 2
    while folder.exists():
        folder, number = parent / f"{name}-{number}", number + 1
    return folder


def steps_in(root: Path) -> list[int]:
    """Steps that have a checkpoint in a folder, in order."""
    names = [path.name for path in root.iterdir()] if root.is_dir() else []
    return sorted(int(match[1]) for name in names if (match := STEP_FOLDER.match(name)))


def newest_facts(run: Path) -> dict[str, Any]:
    """What the newest checkpoint of a run says, unchecked; nothing where none can be read."""
    root = run / CHECKPOINTS
    for step in reversed(steps_in(root)):
        if found := read_json(root / f"step-{step}" / CONTENTS):
            return found
    return {}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is none."""
    try:
        document = json.loads(read_text(path, MOST_DOCUMENT))
    except (OSError, ValueError, RecursionError, SpecError):
        return {}
    return document if isinstance(document, dict) else {}


def best_step(run: Path) -> int | None:
    """The step that was the best by the watched metric; None where none was measured."""
    progress = newest_facts(run).get("progress")
    step = progress.get("best_step") if isinstance(progress, dict) else None
    return step if type(step) is int else None


def checkpoint_names(run: Path) -> list[str]:
    """What may stand behind `RUN@`."""
    steps = steps_in(run / CHECKPOINTS)
    best = [BEST] if best_step(run) in steps else []
    return [*(f"step-{step}" for step in steps), *best, *([LAST] if steps else [])]


def checkpoint_folder(run: Path, name: str) -> Path:
    """The folder of a checkpoint by its name: step-N, the best one, or the last one."""
    known = checkpoint_names(run)
    if not known:
        raise MissingError(
            f"`{run}` has no checkpoints.", "Name the run alone, which means its student."
        )
    if name not in known:
        raise unknown_checkpoint(run, name, known)
    if name == LAST:
        name = f"step-{steps_in(run / CHECKPOINTS)[-1]}"
    if name == BEST:
        name = f"step-{best_step(run)}"
    return run / CHECKPOINTS / name


def unknown_checkpoint(run: Path, name: str, known: list[str]) -> MissingError:
    """What to say of a checkpoint that is not there."""
    there = f"{run} has {', '.join(known)}."
    if name == BEST and (step := best_step(run)) is not None:
        return MissingError(f"The best step of `{run}` was {step}, which was not kept.", there)
    if name == BEST:
        return MissingError(
            f"It is not known which step of `{run}` is the best: none was measured on the way.",
            f"{there} With `monitor.fid_every` a run measures as it goes.",
        )
    guess = nearest(name, known)
    meant = f"Did you mean `{run}@{guess}`? " if guess else ""
    return MissingError(f"`{run}` has no checkpoint `{name}`.", f"{meant}{there}")
