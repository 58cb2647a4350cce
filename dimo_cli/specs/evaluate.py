"""What an evaluation is: which numbers, of what, against what, and how good they have to be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dimo_cli.specs.base import Flag, Int, Real, Spec
from dimo_cli.specs.sample import SamplerSpec

MetricName = Literal[
    "fid", "kid", "is", "pr", "fdd", "clip", "hps", "image_reward", "pickscore", "geneval", "emoji"
]
FeatureName = Literal["inception", "dinov2", "digits", "shapes", "emoji"]
ResizeName = Literal["clean", "legacy_tensorflow", "legacy_pytorch"]


def gate(name: str) -> Flag:
    """How a limit of a metric is written."""
    return Flag(names=(name,), metavar="NAME=VALUE", completion="gates")


class EvalSpec(Spec):
    """One evaluation: all its numbers come from one pass over the images."""

    metrics: tuple[MetricName, ...] = Field(
        (), description="What to measure; none: all that suits the target"
    )
    target: Annotated[str, Flag(is_argument=True, completion="targets")] = Field(
        ...,
        min_length=1,
        description="Run folder (RUN@best, RUN@last, RUN@step-N: a checkpoint of it), student "
        "folder, Hub id, `digits` or `shapes` (built-in students), a preset with --teacher, or a "
        "folder, .zip or .npz of images",
    )
    samples: Annotated[Int | None, Flag(names=("--samples", "-n"))] = Field(
        None,
        ge=2,
        le=1_000_000,
        description="Number of images; null: all of a folder or of a set of prompts, else 5,000 "
        "for embedded teachers and 50,000 for others",
    )
    reference: Annotated[str | None, Flag(names=("--ref",))] = Field(
        None,
        min_length=1,
        description="Statistics of real images (.npz, .pkl), a folder of them, or digits, "
        "shapes or emoji for those of an embedded teacher; null: what ships with the teacher",
    )
    features: FeatureName | None = Field(
        None, description="Feature network of FID, KID, IS and PR; null: as suits the target"
    )
    resize: ResizeName | None = Field(
        None,
        description="How images get to Inception's size; null: legacy_tensorflow for class "
        "teachers (as the papers), clean for others",
    )
    inception: str | None = Field(
        None, min_length=1, description="File of Inception's weights; null: cached or downloaded"
    )
    neighbors: Annotated[Int, Flag(names=("--k",))] = Field(
        3, ge=1, le=1000, description="Neighbors k of precision, recall and density"
    )
    prompts: str | None = Field(
        None,
        min_length=1,
        description="Prompts to draw: coco-30k=FILE, mjhq-30k, hpsv2, geneval=FILE, shapes, emoji, "
        "a text file with one prompt per line, or a dataset's column: hub:OWNER/NAME:COLUMN",
    )
    crop: Int | None = Field(
        None,
        ge=8,
        description="Center crop to a square, Lanczos to this side, before anything is measured "
        "(COCO-30K: 256)",
    )
    maximum: Annotated[dict[str, Real], gate("--max")] = Field(
        default_factory=dict, description="Gate: exit 1 if this metric is above"
    )
    minimum: Annotated[dict[str, Real], gate("--min")] = Field(
        default_factory=dict, description="Gate: exit 1 if this metric is below"
    )
    save_images: str | None = Field(
        None, min_length=1, description="Folder to keep the images in as PNG files"
    )
    temperatures: Annotated[
        tuple[Annotated[Real, Field(gt=0, le=1000)], ...],
        Flag(names=("--sweep",), metavar="temperature=A..B", is_text=True),
    ] = Field((), description="Try sampling temperatures one after another; best and curve")
    sampler: SamplerSpec = Field(
        default_factory=lambda: SamplerSpec(seed=20_000), description="How images are drawn"
    )

    @model_validator(mode="after")
    def _one_temperature_or_many(self) -> EvalSpec:
        if self.temperatures and self.sampler.temperature is not None:
            raise ValueError("--sweep and --temperature exclude each other")
        if self.temperatures and (self.maximum or self.minimum or self.save_images):
            raise ValueError("--sweep looks for the best: it takes no gates and saves no images")
        return self
