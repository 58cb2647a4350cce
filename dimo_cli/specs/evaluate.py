"""What an evaluation is: which numbers, of what, against what, and how good they have to be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dimo_cli.specs.base import Flag, Int, Real, Spec
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.specs.shipped import SHIPPED_STUDENTS
from dimo_cli.specs.tteo import MOST_TEMPERATURE, TteoSpec, read_budget

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
        f"folder, Hub id, a built-in student ({SHIPPED_STUDENTS}), a preset with --teacher, or a "
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
        None,
        min_length=1,
        description="Folder to keep the images in as PNG files; where metrics are of different "
        "prompts, a subfolder for each, by the name of its first metric",
    )
    temperatures: Annotated[
        tuple[Annotated[Real, Field(gt=0, le=1000)], ...],
        Flag(names=("--sweep",), metavar="temperature=A..B", is_text=True),
    ] = Field((), description="Try sampling temperatures one after another; best and curve")
    tteo: Annotated[str | None, Flag(metavar="BUDGET")] = Field(
        None,
        description="Optimize the student's input for every prompt before its image is measured, "
        "as `dimo tteo` does: 4x2 is 4 starts with 2 updates each, bon16 the best of 16; null: "
        "plain images",
    )
    tteo_rewards: Annotated[
        dict[str, Annotated[Real, Field(gt=0)]],
        Flag(names=("--tteo-reward",), metavar="NAME=WEIGHT", completion="rewards"),
    ] = Field(
        default_factory=dict,
        description="What --tteo raises and selects by; empty: what suits the teacher",
    )
    tteo_decode: Literal["soft", "argmax"] = Field(
        "soft",
        description="The image that --tteo ends with: of the soft codes that were scored, or of "
        "the likeliest ones",
    )
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

    @model_validator(mode="after")
    def _only_a_students_single_pass_is_optimized(self) -> EvalSpec:
        if self.tteo is None:
            if self.tteo_rewards or self.tteo_decode != "soft":
                raise ValueError(
                    "--tteo-reward and --tteo-decode say how --tteo is done: add --tteo 4x2"
                )
            return self
        try:
            read_budget(self.tteo)
        except ValueError as problem:
            raise ValueError(f"--tteo: {problem}") from None
        sampler = self.sampler
        if sampler.teacher:
            raise ValueError("--tteo optimizes the input of a student: leave out --teacher")
        if sampler.top_k or sampler.top_p or (sampler.steps or 1) > 1:
            raise ValueError(
                "--tteo is of a single pass that draws no tokens: leave out --steps, --top-k and "
                "--top-p"
            )
        hottest = max((sampler.temperature or 0, *self.temperatures))
        if hottest > MOST_TEMPERATURE:
            raise ValueError(
                f"a temperature of {hottest:g} is too high: with --tteo it is at most "
                f"{MOST_TEMPERATURE}"
            )
        return self

    @property
    def optimization(self) -> TteoSpec | None:
        """What is done to the input of every image before it is drawn."""
        if self.tteo is None:
            return None
        starts, updates = read_budget(self.tteo)
        return TteoSpec(
            starts=starts,
            iterations=updates,
            temperature=self.sampler.temperature or 1.0,
            rewards=self.tteo_rewards,
            seed=self.sampler.seed,
            decode=self.tteo_decode,
        )
