"""What checkpoints a run has, and what each of them says of itself. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import ValidationError

from dimo_cli.errors import MissingError, SpecError, nearest
from dimo_cli.specs.checkpoint import Contents, settings_hash
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.refine import RefineSpec

CHECKPOINTS = "checkpoints"  # in a run folder
STEP_FOLDER = re.compile(r"step-(\d+)$")
CONTENTS, STATE = "contents.json", "state.pt"
AVERAGE = "ema"  # the network that becomes the student
BEST, LAST = "best", "last"


class DamagedCheckpoint(Exception):
    """A checkpoint is not what was written; the message says in what."""


def steps_in(root: Path) -> list[int]:
    """Steps that have a checkpoint in a folder, in order."""
    names = [path.name for path in root.iterdir()] if root.is_dir() else []
    return sorted(int(match[1]) for name in names if (match := STEP_FOLDER.match(name)))


def read_contents(folder: Path) -> Contents:
    """What a checkpoint says of itself, as far as that can be seen without its files."""
    try:
        text = (folder / CONTENTS).read_text(encoding="utf-8")
        contents = Contents.model_validate_json(text)
    except FileNotFoundError:
        raise DamagedCheckpoint(f"it has no {CONTENTS}") from None
    except (OSError, ValueError, RecursionError):
        raise DamagedCheckpoint(f"its {CONTENTS} cannot be read") from None
    match = STEP_FOLDER.match(folder.name)
    if match and contents.step not in (None, int(match[1])):
        raise DamagedCheckpoint(f"it was written as step-{contents.step}")
    if contents.spec is not None and contents.spec_sha256 != settings_hash(contents.spec):
        raise DamagedCheckpoint(f"the settings in its {CONTENTS} are not those that were written")
    return contents


def newest_contents(run: Path) -> Contents | None:
    """What the newest readable checkpoint of a run says; None where there is none."""
    root = run / CHECKPOINTS
    for step in reversed(steps_in(root)):
        try:
            return read_contents(root / f"step-{step}")
        except DamagedCheckpoint:
            continue
    return None


def checkpoint_names(run: Path) -> list[str]:
    """What may stand behind `RUN@`."""
    steps = steps_in(run / CHECKPOINTS)
    newest = newest_contents(run)
    best = [BEST] if newest and newest.best_step in steps else []
    return [*(f"step-{step}" for step in steps), *best, *([LAST] if steps else [])]


def checkpoint_folder(run: Path, name: str) -> Path:
    """The folder of a checkpoint by its name: step-N, the best one, or the last one."""
    root = run / CHECKPOINTS
    known = checkpoint_names(run)
    if not known:
        raise MissingError(
            f"`{run}` has no checkpoints.", "Name the run alone, which means its student."
        )
    there = f"{run} has {', '.join(known)}."
    if name not in known:
        raise MissingError(*unknown_checkpoint(run, name, known, there))
    step = steps_in(root)[-1]
    if name == BEST:
        newest = newest_contents(run)
        assert newest is not None and newest.best_step is not None
        step = newest.best_step
    return root / (f"step-{step}" if name in (BEST, LAST) else name)


def unknown_checkpoint(run: Path, name: str, known: list[str], there: str) -> tuple[str, str]:
    """What to say of a checkpoint that is not there."""
    newest = newest_contents(run)
    if name == BEST and newest and newest.best_step is not None:
        return f"The best step of `{run}` was {newest.best_step}, which was not kept.", there
    if name == BEST:
        return (
            f"It is not known which step of `{run}` is the best: none was measured on the way.",
            f"{there} `monitor.fid_every` measures as a run goes.",
        )
    guess = nearest(name, known)
    meant = f"Did you mean `{run}@{guess}`? " if guess else ""
    return f"`{run}` has no checkpoint `{name}`.", f"{meant}{there}"


def spec_of(contents: Contents, folder: Path) -> DistillSpec | None:
    """The spec of a checkpoint's run, with defaults for what may change; None of an earlier dimo."""
    if contents.spec is None:
        return None
    model = RefineSpec if "gan" in contents.spec else DistillSpec
    try:
        return model.model_validate(contents.spec)
    except ValidationError:
        raise SpecError(
            f"`{folder}` was written by another version of dimo: it has settings that this one "
            "does not know.",
            "Use the version that the run was made with.",
        ) from None
