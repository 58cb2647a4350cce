"""The teacher of a run: which one, with what guidance, stored how."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dimo_cli.specs.base import Real, Spec, shorthand
from dimo_cli.specs.stored import StoredWeights


class TeacherGuidance(Spec):
    """Classifier-free guidance of the frozen teacher: z_u + s (z_c - z_u)."""

    kind: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description="How s depends on the mask ratio m: always `scale`, or from `start` at m = 0 "
        "to `scale` at m = 1 along a line or a half cosine",
    )
    scale: Real = Field(1.0, ge=0, le=100, description="Guidance s; 1 needs no null forward")
    start: Real = Field(
        1.0, ge=0, le=100, description="Guidance at m = 0 of a kind that is not constant"
    )

    @model_validator(mode="after")
    def _start_needs_a_way(self) -> TeacherGuidance:
        if self.kind == "constant" and self.start != 1.0:
            raise ValueError(f"start ({self.start:g}) needs kind linear or cosine, not constant")
        return self

    @property
    def needs_null(self) -> bool:
        """Whether the teacher looks at the null condition as well."""
        return not (self.kind == "constant" and self.scale == 1.0)


class TeacherSource(Spec):
    """Which teacher, and where its weights come from."""

    name: str = Field("digits", min_length=1, description="Which teacher to distill")
    revision: str | None = Field(
        None, min_length=1, description="Commit, tag or branch on the Hub; null: what dimo knows"
    )
    local_dir: str | None = Field(
        None,
        min_length=1,
        description="Folder with the published files; nothing is downloaded then",
    )
    architecture: dict[str, Any] = Field(
        default_factory=dict,
        description="For a model of your own in this family's format: what differs from the "
        "published architecture",
    )
    negative_prompt: str | None = Field(
        None,
        description="What guidance leads away from; null: what the family publishes. Text only",
    )
    weights: StoredWeights = Field(
        "fp32",
        description="What the matrices in the frozen teacher's blocks are stored as, which student "
        "and auxiliary share where they are adapters: fp32, bf16, or int8 with a scale for each "
        "row. A run on CUDA has bf16 where this says fp32",
    )


class TeacherSpec(TeacherSource):
    """The frozen multi-step model (phi)."""

    guidance: Annotated[TeacherGuidance, shorthand("scale", "constant")] = Field(
        default_factory=TeacherGuidance, description="Guidance while distilling"
    )
