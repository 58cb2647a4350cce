"""Sizes and hashes of a checkpoint's files: written with it, and compared before it is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dimo_cli.files.writing import file_sha256
from dimo_cli.run_folder.checkpoints import DamagedCheckpoint, read_contents
from dimo_cli.run_folder.naming import CONTENTS
from dimo_cli.specs.checkpoint import Contents, FileFacts, Owner, settings_hash

NOBODY = Owner()
"""The owner of a checkpoint that belongs to no run folder."""


def facts_of(path: Path) -> FileFacts:
    """Size and hash of a file."""
    return FileFacts(bytes=path.stat().st_size, sha256=file_sha256(path))


def write_contents(
    folder: Path,
    known: Mapping[str, FileFacts] | None = None,
    owner: Owner = NOBODY,
    step: int | None = None,
    progress: dict[str, Any] | None = None,
) -> None:
    """Write down what a checkpoint is of, and every file of it; some may be known."""
    known = known or {}
    files = {path.name: known.get(path.name) or facts_of(path) for path in sorted(folder.iterdir())}
    contents = Contents(
        **dict(owner),
        step=step,
        spec_sha256=settings_hash(owner.spec) if owner.spec is not None else None,
        progress=progress,
        files=files,
    )
    (folder / CONTENTS).write_text(contents.model_dump_json(indent=1), encoding="utf-8")


def check_contents(folder: Path, network: str | None = None) -> Contents:
    """Refuse a checkpoint with a file that is not as it was written, or that nobody wrote.

    With `network`, only the files of that network are read; returns what the checkpoint says.
    """
    contents = read_contents(folder)
    names = sorted(path.name for path in folder.iterdir() if path.name != CONTENTS)
    if unlisted := [name for name in names if name not in contents.files]:
        raise DamagedCheckpoint(f"{unlisted[0]} is not in its {CONTENTS}")
    for name, facts in contents.files.items():
        if network is None or is_of(name, network):
            check_file(folder, name, facts)
    return contents


def is_of(name: str, network: str) -> bool:
    """Whether a file holds weights of a network: all, or the rows of one rank."""
    return name == f"{network}.safetensors" or name.startswith(f"{network}-")


def check_file(folder: Path, name: str, facts: FileFacts) -> None:
    """Refuse a file that is missing, or is not as it was written."""
    path = folder / name
    if "/" in name or not path.is_file():
        raise DamagedCheckpoint(f"{name} is missing")
    if (found := path.stat().st_size) != facts.bytes:
        raise DamagedCheckpoint(f"{name} has {found:,} bytes instead of {facts.bytes:,}")
    if file_sha256(path) != facts.sha256:
        raise DamagedCheckpoint(f"{name} has other bytes than were written")
