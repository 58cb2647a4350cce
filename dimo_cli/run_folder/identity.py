"""Who a run is: an id in run.json, made when it starts and carried by every checkpoint."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

from dimo_cli.errors import SpecError
from dimo_cli.files.writing import write_whole_text
from dimo_cli.run_folder.naming import read_json
from dimo_cli.specs.checkpoint import Contents, Owner

RUN_FILE = "run.json"


class ForeignCheckpoint(SpecError):
    """A checkpoint is whole, and of another run."""


def new_identity(folder: Path) -> None:
    """Give a run that begins its id."""
    text = json.dumps({"id": uuid.uuid4().hex}, indent=2)
    write_whole_text(folder / RUN_FILE, text + "\n")


def identity_of(folder: Path) -> str | None:
    """The id of a run; None for one of an earlier dimo, or where the file is gone."""
    known = read_json(folder / RUN_FILE).get("id")
    return str(known) if known is not None else None


def check_owner(folder: Path, contents: Contents, owner: Owner) -> None:
    """Refuse a checkpoint of another run. What an earlier dimo wrote has no id, nor has its run."""
    if contents.run == owner.run:
        return
    if owner.run is None:
        raise ForeignCheckpoint(
            f"`{folder}` is of the run {short(contents.run)}, and this folder does not say which "
            f"run it holds: its {RUN_FILE} is missing or damaged.",
            f"Bring {RUN_FILE} back, or start a new run with `--out`.",
        )
    of = f"of another run ({short(contents.run)})" if contents.run else "of a run without an id"
    raise ForeignCheckpoint(
        f"`{folder}` is {of}; this one is {short(owner.run)}.",
        "Move it out of this folder, and continue the run from its own checkpoints.",
    )


def short(run: str | None) -> str:
    """Enough of an id to tell runs apart."""
    return (run or "without an id")[:8]
