"""The list of contents of a checkpoint: `contents.json`, and what it says of the run."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import Field

from dimo_cli.specs.base import Int, Spec
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.manifest import TeacherFacts

# Fields that may differ between a run and its continuation without changing what was trained.
FREE_ON_RESUME = (
    "train.steps",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "monitor.",
)


class FileFacts(Spec):
    """A file as it was written."""

    bytes: Int = Field(..., ge=0, description="Its size")
    sha256: str = Field(..., description="Its hash")


class Owner(Spec):
    """Which run a checkpoint is of. Nothing is known of what an earlier dimo wrote."""

    run: str | None = Field(None, description="Id of the run")
    spec: dict[str, Any] | None = Field(None, description="Settings that the run cannot change")
    teacher: TeacherFacts | None = Field(None, description="Whose student it is")

    @classmethod
    def of(cls, run: str | None, spec: DistillSpec, teacher: TeacherFacts) -> Owner:
        """The owner of the checkpoints of a run."""
        return cls(run=run, spec=fixed_settings(spec), teacher=teacher)


class Contents(Owner):
    """contents.json of a checkpoint, without which none is read."""

    step: Int | None = Field(None, description="The step that it is of")
    spec_sha256: str | None = Field(None, description="Hash of the settings that cannot change")
    progress: dict[str, Any] | None = Field(None, description="Counters of the run")
    files: dict[str, FileFacts] = Field(..., description="Every other file of the checkpoint")


def fixed_settings(spec: DistillSpec) -> dict[str, Any]:
    """The settings of a run that its continuations cannot change, as JSON has them.

    A rate that falls until the run ends has its end named: it stays where it is if the run goes on.
    """
    fixed: dict[str, Any] = spec.model_dump(mode="json")
    for schedule in falling_schedules(fixed):
        schedule["steps"] = schedule["steps"] or spec.train.steps
    for path in FREE_ON_RESUME:
        group, _, name = path.partition(".")
        if name:
            fixed[group].pop(name, None)
        else:
            fixed.pop(group)
    return fixed


def falling_schedules(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The schedules of a run's optimizers that end somewhere."""
    holders = [settings[name] for name in ("student", "auxiliary", "gan") if name in settings]
    schedules = [holder["optimizer"]["schedule"] for holder in holders]
    return [schedule for schedule in schedules if schedule["kind"] != "constant"]


def settings_hash(settings: dict[str, Any] | None) -> str:
    """What tells settings from others."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
