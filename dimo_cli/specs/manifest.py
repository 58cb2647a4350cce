"""The manifest of a student folder: dimo.json, and the names of the files beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from dimo_cli.errors import counted
from dimo_cli.specs.base import Int, Real, Spec
from dimo_cli.specs.distill import MOST_STEPS
from dimo_cli.specs.divergences import Divergence
from dimo_cli.specs.init import InitSpec
from dimo_cli.specs.lora import HIGHEST_RANK

FORMAT = 3
"""The newest that is read. An earlier dimo cannot load 2, adapters over the teacher, or students
that hear noise, and would draw students of several steps in one: both are 3."""
MANIFEST, WEIGHTS = "dimo.json", "model.safetensors"
ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"

CARD, PREVIEW = "README.md", "preview.png"


def oldest_format(has_adapters: bool, *newer: object) -> Literal[1, 2, 3]:
    """The first format that can say this of a student: every dimo of its time can read it.

    `newer` is what it says that only the newest can: steps, noise, a latent.
    """
    if any(newer):
        return 3
    return 2 if has_adapters else 1


def steps_in_words(counts: Sequence[int]) -> str:
    """Numbers of steps that a student may take: `1 step`, or `1, 2 or 4 steps`."""
    *others, last = counts
    if others:
        return f"{', '.join(map(str, others))} or {last} steps"
    return counted(last, "step")


class Facts(Spec):
    """What is written only where there is something to say: other files stay as they were."""

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        for name in ("chosen", "fingerprint", "latent", "lora", "steps", "weights"):
            if name in values and values[name] is None:
                del values[name]
        if isinstance(init := values.get("init"), dict) and init.get("noise") is None:
            init.pop("noise", None)
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

    format: Literal[1, 2, 3] = 1
    dimo_version: str
    teacher: TeacherFacts
    init: InitSpec
    temperature: float = Field(1.0, gt=0)
    steps: tuple[Annotated[Int, Field(ge=1, le=MOST_STEPS)], ...] | None = Field(None, min_length=1)
    """In how many it may draw, in rising order; None: in one, and not written."""
    training: TrainingFacts
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    chosen: Choice | None = None
    """None: not recorded, and not written."""
    lora: LoraFacts | None = None
    latent: Literal[True] | None = None
    """Its network reads a latent; None: it does not, and nothing is written."""

    @property
    def step_counts(self) -> tuple[int, ...]:
        """In how many steps it may draw."""
        return self.steps or (1,)

    @property
    def weights_file(self) -> str:
        """What has this hash: adapters, or all weights."""
        return WEIGHTS if self.lora is None else ADAPTER_WEIGHTS

    @property
    def files(self) -> tuple[str, ...]:
        """All files that it cannot be loaded or used without, the manifest apart."""
        more = () if self.lora is None else (ADAPTER_CONFIG,)
        return (self.weights_file, *more)
