"""How a network is optimized: rates, their schedule, Adam."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dimo_cli.specs.base import Int, Real, Spec, shorthand


class RateSchedule(Spec):
    """What becomes of a learning rate once its warm-up is over."""

    kind: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description="Stay as it is, or fall to the floor along a line or a half cosine",
    )
    floor: Real = Field(0.0, ge=0, le=1, description="Share of the rate that is left at the end")
    hold: Real = Field(
        0.0, ge=0, lt=1, description="Share of the steps up to the floor in which the rate stays"
    )
    steps: Int | None = Field(
        None, ge=1, description="Step where the floor is reached; null: train.steps"
    )

    @model_validator(mode="after")
    def _constant_has_no_end(self) -> RateSchedule:
        if self.kind == "constant" and (self.floor or self.hold or self.steps is not None):
            raise ValueError("floor, hold and steps need kind linear or cosine, not constant")
        return self


class OptimizerSpec(Spec):
    """How one network's weights follow its gradient."""

    kind: Literal["adam", "adamw"] = Field("adam", description="Optimizer")
    learning_rate: Real = Field(1e-5, gt=0, le=1, description="Rate after the warm-up")
    schedule: Annotated[RateSchedule, shorthand("floor", "constant")] = Field(
        default_factory=RateSchedule, description="How the rate falls after the warm-up"
    )
    beta1: Real = Field(0.9, ge=0, lt=1, description="Decay of the first moment")
    beta2: Real = Field(0.999, ge=0, lt=1, description="Decay of the second moment")
    eps: Real = Field(1e-8, gt=0, description="Added to the root of the second moment")
    weight_decay: Real = Field(0.0, ge=0, le=1, description="Weight decay; needs adamw")
    warmup_steps: Int = Field(100, ge=0, description="Linear warm-up: rate k/N at step k")
    clip_norm: Real | None = Field(1.0, gt=0, description="Largest gradient norm; null: no limit")

    @model_validator(mode="after")
    def _decay_needs_adamw(self) -> OptimizerSpec:
        if self.weight_decay and self.kind == "adam":
            raise ValueError("weight_decay needs kind adamw, not adam")
        return self
