"""What a student starts from, x_init, and how its tokens are masked again."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dimo_cli.specs.base import Int, Real, Spec, shorthand
from dimo_cli.specs.input_noise import InputNoise

MaskSchedule = Literal["linear", "square", "root", "cosine", "arccos", "truncated_normal"]


class FixedRatio(Spec):
    """The same share of mask tokens at every step."""

    kind: Literal["fixed"] = Field("fixed", description="fixed or random")
    value: Real = Field(0.6, ge=0, le=1, description="Share of mask tokens in x_init")


class RandomRatio(Spec):
    """A share of mask tokens drawn once per step for the whole batch."""

    kind: Literal["random"] = Field("random", description="fixed or random")
    low: Real = Field(0.4, ge=0, le=1, description="Smallest share")
    high: Real = Field(0.8, ge=0, le=1, description="Largest share")

    @model_validator(mode="after")
    def _ordered(self) -> RandomRatio:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        return self


class FixedNoise(Spec):
    """The same noise at every step."""

    kind: Literal["fixed"] = Field("fixed", description="fixed or warmup")
    sigma: Real = Field(
        0.1, ge=0, le=1, description="Noise share: e becomes sigma n + sqrt(1 - sigma^2) e"
    )


class WarmupNoise(Spec):
    """Noise that grows from nothing to `sigma`."""

    kind: Literal["warmup"] = Field("warmup", description="fixed or warmup")
    sigma: Real = Field(0.1, ge=0, le=1, description="Noise share that the warm-up ends at")
    shape: Literal["linear", "exponential", "cosine"] = Field(
        "linear", description="k/N, 1 - exp(-k/N), or (1 - cos(pi k/N))/2 at step k"
    )
    steps: Int = Field(1000, ge=1, description="Length N of the warm-up in steps")


class InitSpec(Spec):
    """The student's input x_init and its token-embedding noise (Di[M]O, section 4.3)."""

    mask_ratio: Annotated[
        FixedRatio | RandomRatio, Field(discriminator="kind"), shorthand("value", "fixed")
    ] = Field(
        default_factory=FixedRatio,
        description="r_init, the share of mask tokens; the rest are random image tokens. "
        "At 1 the input carries no randomness and the student collapses",
    )
    embed_noise: Annotated[
        FixedNoise | WarmupNoise, Field(discriminator="kind"), shorthand("sigma", "fixed")
    ] = Field(default_factory=FixedNoise, description="Gaussian noise on the token embeddings")
    noise: Annotated[InputNoise | None, shorthand("dim", "mask")] = Field(
        None,
        description="Noise that a network of the student's own, trained with it, adds to its "
        "embeddings; null: none. With it even mask_ratio 1 is not the same for all images",
    )
    control: Literal[
        "none", "fixed_image_token", "fixed_class_token", "random_class_tokens", "encoded_noise"
    ] = Field(
        "none",
        description="Control variants of Table 6: what stands where the masks (fixed_*), the "
        "random image tokens (random_class_tokens) or all tokens (encoded_noise) should be",
    )
    control_token: Int | None = Field(
        None, ge=0, description="Image code or class number of a fixed_* control; null: the middle"
    )

    @model_validator(mode="after")
    def _token_needs_control(self) -> InitSpec:
        if self.control_token is not None and not self.control.startswith("fixed_"):
            raise ValueError(
                "control_token only applies to control fixed_image_token or fixed_class_token"
            )
        return self


class MaskingSpec(Spec):
    """How the student's tokens are masked again into x_tilde."""

    student: MaskSchedule = Field("arccos", description="Mask schedule of the student's update")
    auxiliary: MaskSchedule = Field("arccos", description="Mask schedule of the auxiliary's update")
    content: Literal["tokens", "soft"] = Field(
        "tokens",
        description="What is masked again: the student's sampled tokens, or their soft embeddings, "
        "which converges faster and ends a little worse (Soft-Di[M]O, I.15)",
    )
    lowest: Real = Field(0.0, ge=0, lt=1, description="Mask ratios below are raised to this")
    highest: Real = Field(1.0, gt=0, le=1, description="Mask ratios above are lowered to this")
    bridge: bool = Field(
        False,
        description="For students of several steps: mask only what was open in a step's input, as "
        "D-MMD, so that x_tilde lies between what the step saw and what it drew",
    )
    judged: Literal["kept", "all"] = Field(
        "kept",
        description="For students of several steps: how many tokens of a step that is not the last "
        "are judged together: as many as stay (kept), so that the law that the next step goes on "
        "from is the teacher's, or all of them (all)",
    )
    method: Literal["exact", "bernoulli"] = Field(
        "exact",
        description="An exact number of masked tokens per sample, or each one apart "
        "with probability r_t",
    )

    @model_validator(mode="after")
    def _ordered(self) -> MaskingSpec:
        if self.lowest > self.highest:
            raise ValueError(f"lowest ({self.lowest}) must not be above highest ({self.highest})")
        return self
