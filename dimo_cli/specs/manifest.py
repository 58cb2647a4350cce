"""The manifest of a student folder: dimo.json, and the names of the files beside it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from dimo_cli.specs.base import Int, Real, Spec
from dimo_cli.specs.distill import InitSpec
from dimo_cli.specs.divergences import Divergence
from dimo_cli.specs.lora import HIGHEST_RANK

FORMAT = 2
"""The newest that is read: 2 are adapters over the teacher, which an earlier dimo cannot load."""
MANIFEST, WEIGHTS = "dimo.json", "model.safetensors"
ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"

CARD, PREVIEW = "README.md", "preview.png"


class Facts(Spec):
    """What is written only where there is something to say: other files stay as they were."""

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        for name in ("chosen", "fingerprint", "lora", "weights"):
            if name in values and values[name] is None:
                del values[name]
        return values


class TeacherFacts(Facts):
    """Which teacher a student was distilled from."""

    name: str
    family: str
    revision: str
    license: str
    architecture: dict[str, Any] = Field(default_factory=dict)
    fingerprint: str | None = None
    """Of its weights, where a student is nothing without them."""
    weights: Literal["bf16", "int8"] | None = None
    """What these are stored as, where that is what its adapters were trained over."""


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


class LoraFacts(Spec):
    """The adapters of a student that is its teacher with adapters."""

    rank: Int = Field(..., ge=1, le=HIGHEST_RANK)
    alpha: Real = Field(..., gt=0)


class StudentManifest(Facts):
    """dimo.json."""

    format: Literal[1, 2] = 1
    dimo_version: str
    teacher: TeacherFacts
    init: InitSpec
    temperature: float = Field(1.0, gt=0)
    training: TrainingFacts
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    chosen: Choice | None = None
    """None: not recorded, and not written."""
    lora: LoraFacts | None = None

    @property
    def weights_file(self) -> str:
        """What has this hash: adapters, or all weights."""
        return WEIGHTS if self.lora is None else ADAPTER_WEIGHTS

    @property
    def files(self) -> tuple[str, ...]:
        """All files that it cannot be loaded or used without, the manifest apart."""
        more = () if self.lora is None else (ADAPTER_CONFIG,)
        return (self.weights_file, *more)
