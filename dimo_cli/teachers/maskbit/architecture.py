"""The settings of both networks, under the names of the published training configs."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from dimo_cli.specs.base import Int, Real, Spec


class Architecture(Spec):
    """Generator and tokenizer; the defaults are the published models, which differ in `bits`."""

    bits: Int = Field(14, ge=1, le=24, description="Bits of a token")
    codebook_splits: Int = Field(
        2, ge=1, validate_default=True, description="Groups that a token's bits are split into"
    )
    img_size: Int = Field(256, ge=1, description="Side of the image in pixels")
    hidden_dim: Int = Field(1024, ge=1, description="Width of the generator")
    depth: Int = Field(24, ge=1, description="Blocks of the generator")
    heads: Int = Field(16, ge=1, validate_default=True, description="Attention heads of a block")
    mlp_dim: Int = Field(4096, ge=1, description="Inner width of a block's feed-forward part")
    dropout: Real = Field(0.1, ge=0, lt=1, description="Dropout of the generator in training")
    nclass: Int = Field(1000, ge=1, description="Number of classes")
    hidden_channels: Int = Field(
        128, ge=32, multiple_of=32, description="Channels of the tokenizer at full resolution"
    )
    channel_mult: tuple[Int, ...] = Field(
        (1, 1, 2, 2, 4),
        min_length=1,
        validate_default=True,
        description="Channels at each resolution, as multiples of `hidden_channels`",
    )
    num_res_blocks: Int = Field(2, ge=1, description="Residual blocks at each resolution")

    @field_validator("codebook_splits", "heads")
    @classmethod
    def _divides_evenly(cls, value: int, info: ValidationInfo) -> int:
        whole = {"codebook_splits": "bits", "heads": "hidden_dim"}[str(info.field_name)]
        if whole in info.data and info.data[whole] % value:
            raise ValueError(f"must divide {whole} ({info.data[whole]})")
        return value

    @field_validator("channel_mult")
    @classmethod
    def _halves_the_image(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        size: Any = info.data.get("img_size", 0)
        if min(value) < 1:
            raise ValueError("multiples start at 1")
        if size % 2 ** (len(value) - 1):
            raise ValueError(f"img_size ({size}) cannot be halved {len(value) - 1} times")
        return value

    @property
    def group_bits(self) -> int:
        """Bits of one group."""
        return self.bits // self.codebook_splits

    @property
    def group_codes(self) -> int:
        """Values of one group; also the id that stands for a masked group."""
        return 2**self.group_bits

    @property
    def side(self) -> int:
        """Rows and columns of the token grid."""
        return self.img_size // 2 ** (len(self.channel_mult) - 1)
