"""The list of a run's snapshots: `ema/snapshots.json`."""

from __future__ import annotations

from pydantic import Field

from dimo_cli.specs.base import Real, Spec
from dimo_cli.specs.checkpoint import FileFacts


class SnapshotList(Spec):
    """snapshots.json, without which no snapshot is read."""

    run: str | None = Field(None, description="Id of the run")
    lengths: tuple[Real, Real] = Field(..., description="Lengths of the two averages")
    files: dict[str, FileFacts] = Field(..., description="Every snapshot by its name")
