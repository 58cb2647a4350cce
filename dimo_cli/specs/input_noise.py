"""Noise that a student is given beside its initial tokens."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dimo_cli.specs.base import Int, Spec


class InputNoise(Spec):
    """Random vectors that the student learns to listen to: its source of variety beside tokens."""

    kind: Literal["mask", "image"] = Field(
        "mask",
        description="A vector of its own for each mask token (IMDM), or one that all positions of "
        "an image share (the noise input of D-MMD)",
    )
    dim: Int | None = Field(
        None, ge=1, le=65_536, description="Numbers of each; null: as many as embeddings have"
    )
    law: Literal["uniform", "gaussian"] = Field(
        "uniform", description="Between -1 and 1, or of the normal distribution"
    )
