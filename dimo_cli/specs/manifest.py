"""The manifest of a student folder: dimo.json, and the names of the files beside it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

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


class Choice(Spec):
    """Which of a run's weights a student has, and by what rule; what is not known is left out."""

    rule: Literal["last", "best", "step", "average"]
    """The last step of the run; the best by its metric; one that a person named; or an average of
    another length, made afterwards."""
    step: int
    length: float | None = None
    """Of such an average: sigma_rel."""
    snapshots: int | None = None
    """How many it was made from."""
    metric: str | None = None
    """What it was the best by, with the value and the count of images."""
    value: float | None = None
    images: int | None = None

    @model_serializer(mode="wrap")
    def _only_what_is_known(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}


class StudentManifest(Spec):
    """dimo.json, version 1."""

    format: Literal[1] = FORMAT
    dimo_version: str
    teacher: TeacherFacts
    init: InitSpec
    temperature: float = Field(1.0, gt=0)
    training: TrainingFacts
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    chosen: Choice | None = None
    """None: not recorded, and not written."""

    @model_serializer(mode="wrap")
    def _only_what_is_recorded(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = handler(self)
        if document.get("chosen") is None:
            document.pop("chosen", None)
        return document
