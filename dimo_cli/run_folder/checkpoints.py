"""What a checkpoint says of itself: which run it is of, and what it was made with."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from dimo_cli.errors import SpecError
from dimo_cli.files.reading import MOST_DOCUMENT, read_text
from dimo_cli.run_folder.naming import CHECKPOINTS, CONTENTS, STEP_FOLDER, steps_in
from dimo_cli.specs.checkpoint import Contents, settings_hash
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.refine import RefineSpec

STATE = "state.pt"
AVERAGE = "ema"  # the network that becomes the student


class DamagedCheckpoint(Exception):
    """A checkpoint is not what was written; the message says in what."""


def read_contents(folder: Path) -> Contents:
    """What a checkpoint says of itself, as far as that can be seen without its files."""
    try:
        contents = Contents.model_validate_json(read_text(folder / CONTENTS, MOST_DOCUMENT))
    except FileNotFoundError:
        raise DamagedCheckpoint(f"it has no {CONTENTS}") from None
    except (OSError, ValueError, RecursionError, SpecError):
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


def spec_of(contents: Contents, folder: Path) -> DistillSpec | None:
    """The spec of a checkpoint's run, with defaults for what may change; None where it is old."""
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
