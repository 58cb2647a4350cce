"""What a sampling or an evaluation call is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dimo_cli.specs.base import Flag, Int, Real, Spec

SamplerMethod = Literal["published", "random", "confidence", "halton", "theta"]


class SamplerSpec(Spec):
    """How images are drawn, by a student in one pass or a few, or by its teacher in many."""

    teacher: bool = Field(False, description="Sample the teacher instead of the student")
    seed: Int = Field(0, ge=0, lt=2**31, description="Fixes the images")
    temperature: Real | None = Field(None, gt=0, le=1000, description="Divides the logits")
    top_k: Int = Field(0, ge=0, description="Keep the k likeliest tokens; 0: all")
    top_p: Real = Field(0.0, ge=0, le=1, description="Keep the likeliest mass p; 0: all")
    r_init: Real | None = Field(
        None, ge=0, le=1, description="Share of mask tokens in a student's input; null: its own"
    )
    method: Annotated[SamplerMethod, Flag(names=("--sampler",))] = Field(
        "published",
        description="Sampler of a teacher: the one its authors published, or one that all "
        "families share: random or confident tokens first, Halton order, theta-trapezoidal",
    )
    steps: Int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Steps of a teacher, or of a student that was trained for so many; null: what "
        "the teacher's authors use, or the most of a student",
    )
    guidance: Real | None = Field(
        None, ge=0, le=100, description="Guidance s of a teacher: z_u + s (z_c - z_u)"
    )
    precision: Literal["auto", "fp32"] = Field(
        "auto", description="Of networks and decoder; auto: bf16 on CUDA, fp32 elsewhere"
    )

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> SamplerSpec:
        if self.teacher and (self.top_k or self.top_p):
            raise ValueError(
                "--top-k and --top-p apply to students; for a teacher use --temperature"
            )
        if self.teacher and self.r_init is not None:
            raise ValueError("--r-init applies to students: a teacher starts from masks alone")
        if not self.teacher and (self.guidance is not None or self.method != "published"):
            raise ValueError(
                "--guidance and --sampler apply to a teacher: add --teacher. A student needs no "
                "guidance"
            )
        return self


class SampleSpec(Spec):
    """One call of `dimo sample`."""

    student: Annotated[str | None, Flag(names=("--student", "-s"), completion="students")] = Field(
        None,
        min_length=1,
        description="Run folder (RUN@best, RUN@last, RUN@step-N: a checkpoint of it), student "
        "folder or Hub id; null: a built-in one, `emoji` or `shapes` for prompts, as they are of "
        "the one or the other, and `digits` for classes",
    )
    preset: Annotated[str | None, Flag(names=("--preset", "-p"), completion="presets")] = Field(
        None, min_length=1, description="With --teacher: sample the teacher of this preset"
    )
    classes: Annotated[tuple[str, ...], Flag(names=("--class", "-c"), completion="classes")] = (
        Field((), description="Class by number, WordNet id or name; none: all in turn")
    )
    prompts: Annotated[tuple[str, ...], Flag(names=("--prompt",))] = Field(
        (), description="Prompt for a text model"
    )
    init: Path | None = Field(
        None, description="Image whose tokens replace the random ones of a student's input"
    )
    interpolate: Annotated[tuple[str, str] | None, Flag(metavar="A B")] = Field(
        None,
        description="Turn one input into another: each an image file, `random`, a class or a "
        "prompt, which stands for the student's own image of it",
    )
    frames: Int | None = Field(None, ge=2, le=1000, description="Images of --interpolate; null: 8")
    count: Annotated[Int, Flag(names=("-n", "--count"))] = Field(
        16, ge=1, le=100_000, description="Number of images"
    )
    strict: bool = Field(False, description="Refuse prompts with words that the teacher leaves out")
    columns: Int | None = Field(
        None, ge=1, le=1000, description="Images per row; null: as suits their size"
    )
    pixels: Int = Field(64, ge=1, le=4096, description="Smallest side of an image in the PNG")
    sampler: SamplerSpec = Field(default_factory=SamplerSpec, description="How images are drawn")

    @model_validator(mode="after")
    def _one_kind_of_condition(self) -> SampleSpec:
        if self.classes and self.prompts:
            raise ValueError("--class and --prompt exclude each other")
        if self.strict and not (self.prompts or self.interpolate):
            raise ValueError("--strict applies to prompts: add --prompt")
        if any(not prompt.strip() for prompt in self.prompts):
            raise ValueError(
                "--prompt is empty: say what to draw, or leave it out for a student of classes"
            )
        if self.preset and not self.sampler.teacher:
            raise ValueError(
                "--preset names a teacher: add --teacher to sample it, or use --student for a "
                "student"
            )
        if self.preset and self.student:
            raise ValueError("--preset and --student exclude each other")
        return self

    @model_validator(mode="after")
    def _one_kind_of_input(self) -> SampleSpec:
        if self.sampler.teacher and (self.init or self.interpolate):
            raise ValueError(
                "--init and --interpolate apply to students: a teacher starts from masks alone"
            )
        if self.init and self.interpolate:
            raise ValueError(
                "--init and --interpolate exclude each other: an end of --interpolate may be an "
                "image"
            )
        if self.frames is not None and not self.interpolate:
            raise ValueError("--frames applies to --interpolate")
        if self.interpolate and "count" in self.model_fields_set:
            raise ValueError("--interpolate draws --frames images: leave out -n")
        if self.interpolate and len(self.classes) + len(self.prompts) > 1:
            raise ValueError("--interpolate takes one --class or --prompt, for all frames")
        return self
