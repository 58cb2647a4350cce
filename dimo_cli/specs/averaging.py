"""How the student's weights are averaged: while it trains, and afterwards."""

from __future__ import annotations

from pydantic import Field, field_validator

from dimo_cli.specs.base import Int, Real, Spec

SHORTEST, LONGEST = 0.01, 0.28  # sigma_rel; at 0.2887 it is the plain mean of the whole run


class PostHocSpec(Spec):
    """Two further averages whose snapshots let `dimo ema` make one of any length afterwards."""

    every: Int | None = Field(
        None,
        ge=1,
        description="Steps between two snapshots, each twice the student's trained weights in "
        "float32 on disk; null: none, and no further averages",
    )
    lengths: tuple[Real, Real] = Field(
        (0.05, 0.1),
        description="Their lengths, as shares of the run so far (sigma_rel of EDM2), "
        f"{SHORTEST} to {LONGEST}",
    )

    @field_validator("lengths")
    @classmethod
    def _within_what_can_be(cls, lengths: tuple[float, float]) -> tuple[float, float]:
        short, long = lengths
        if not SHORTEST <= short < long <= LONGEST:
            raise ValueError(
                f"must be a shorter and a longer length from {SHORTEST} to {LONGEST}, not "
                f"{short:g} and {long:g}"
            )
        return lengths


class EmaSpec(Spec):
    """The average of the student's weights that becomes the generator."""

    decay: Real = Field(0.9999, ge=0, lt=1, description="Decay per step")
    warmup: bool = Field(True, description="Start with the smaller decay (1 + k)/(10 + k)")
    offload: bool = Field(
        False, description="Keep the average in the CPU's memory, and 4 bytes per weight off a GPU"
    )
    post_hoc: PostHocSpec = Field(
        default_factory=PostHocSpec, description="Averages of other lengths, after the run"
    )
