"""The settings of a Halton-MaskGIT teacher, by published names: transformer, then tokenizer."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from dimo_cli.specs.base import Int, Real, Spec

FF_MULTIPLE = 256  # what the inner width of a feed-forward part is rounded up to


class Architecture(Spec):
    """What both networks are built with; the defaults are what all published models share."""

    input_size: Int = Field(gt=0, description="Tokens on each side of the image")
    hidden_dim: Int = Field(gt=0, description="Width of the transformer")
    depth: Int = Field(gt=0, description="Transformer blocks")
    heads: Int = Field(gt=0, description="Attention heads; what they leave of the width is unused")
    mlp_dim: Int = Field(gt=0, description="Two thirds of it, rounded up, is the MLPs' inner width")
    dropout: Real = Field(0.1, ge=0, lt=1, description="Dropout of the transformer in training")
    nclass: Int = Field(1000, gt=0, description="Classes, without the null class")
    codebook_size: Int = Field(16384, gt=0, description="Image codes; the next id is the mask")
    codebook_embed_dim: Int = Field(8, gt=0, description="Width of a codebook vector")
    z_channels: Int = Field(256, gt=0, description="Channels between encoder, codebook and decoder")
    ch: Int = Field(128, gt=0, multiple_of=32, description="Channels of the first convolution")
    ch_mult: tuple[Annotated[Int, Field(gt=0)], ...] = Field(
        (1, 1, 2, 2, 4),
        min_length=1,
        description="Channels of each level in units of `ch`; one halving between two",
    )
    num_res_blocks: Int = Field(
        2, gt=0, description="Residual blocks per level (decoder: one more)"
    )

    @field_validator("heads")
    @classmethod
    def _a_head_has_a_width(cls, heads: int, info: ValidationInfo) -> int:
        width = info.data.get("hidden_dim", heads)
        if heads > width:
            raise ValueError(f"must be at most hidden_dim ({width})")
        return heads

    @property
    def length(self) -> int:
        """Image tokens of one picture."""
        return self.input_size**2

    @property
    def image_size(self) -> int:
        """Side of the picture in pixels."""
        return self.input_size * 2 ** (len(self.ch_mult) - 1)

    @property
    def attention_width(self) -> int:
        """Width of all heads together: less than the transformer's where they do not divide it."""
        return self.hidden_dim // self.heads * self.heads

    @property
    def ff_dim(self) -> int:
        """Inner width of a feed-forward part."""
        return -(-(2 * self.mlp_dim // 3) // FF_MULTIPLE) * FF_MULTIPLE
