"""The manifest of a student folder: dimo.json, and the names of the files beside it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from dimo_cli.specs.base import Spec
from dimo_cli.specs.distill import InitSpec
from dimo_cli.specs.divergences import Divergence

FORMAT: Literal[1] = 1
MANIFEST, WEIGHTS = "dimo.json", "model.safetensors"

CARD, PREVIEW = "README.md", "preview.png"


class TeacherFacts(Spec):
    """Which teacher a student was distilled from."""

    name: str
    family: str
    revision: str
    license: str
    architecture: dict[str, Any] = Field(default_factory=dict)


class TrainingFacts(Spec):
    """How a student was made; what its makers did not publish is null."""

    method: str = "Di[M]O"
    steps: int | None = None
    samples: int | None = None
    seed: int | None = None
    divergence: Divergence | None = None


class StudentManifest(Spec):
    """dimo.json, version 1."""

    format: Literal[1] = FORMAT
    dimo_version: str
    teacher: TeacherFacts
    init: InitSpec
    temperature: float = Field(1.0, gt=0)
    training: TrainingFacts
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
