"""The settings of a MaskGit teacher, by their published names: the transformer, then its VQGAN."""

from __future__ import annotations

from pydantic import Field, ValidationInfo, field_validator

from dimo_cli.specs.base import Int, Real, Spec


class MaskGitArchitecture(Spec):
    """What the two networks are built with."""

    grid: Int = Field(gt=0, description="Tokens on each side of the image")
    codebook_size: Int = Field(
        gt=0, description="Image codes of the VQGAN; the next id is the mask"
    )
    nclass: Int = Field(gt=0, description="Classes, without the null class")
    hidden_dim: Int = Field(gt=0, description="Width of the transformer")
    depth: Int = Field(gt=0, description="Transformer blocks")
    heads: Int = Field(gt=0, description="Attention heads; they share the width evenly")
    mlp_dim: Int = Field(gt=0, description="Inner width of the MLPs")
    dropout: Real = Field(ge=0, lt=1, description="Dropout of the transformer while training")
    embed_dim: Int = Field(gt=0, description="Width of a codebook vector")
    z_channels: Int = Field(gt=0, description="Channels between encoder, codebook and decoder")
    ch: Int = Field(gt=0, multiple_of=32, description="Channels of the first convolution")
    ch_mult: tuple[Int, ...] = Field(
        min_length=1, description="Channels of each level in units of `ch`; one halving between two"
    )
    num_res_blocks: Int = Field(gt=0, description="Residual blocks per level (decoder: one more)")
    attn_resolutions: tuple[Int, ...] = Field(description="Sides, at `resolution`, with attention")
    resolution: Int = Field(gt=0, description="Image side that places the attention, nothing else")

    @field_validator("heads")
    @classmethod
    def _heads_divide_the_width(cls, heads: int, info: ValidationInfo) -> int:
        if info.data.get("hidden_dim", heads) % heads:
            raise ValueError("must divide hidden_dim")
        return heads

    @property
    def length(self) -> int:
        """Image tokens of one picture."""
        return self.grid**2

    @property
    def image_size(self) -> int:
        """Side of the picture in pixels."""
        return self.grid * 2 ** (len(self.ch_mult) - 1)

    @property
    def mask_id(self) -> int:
        """Id of the mask token; its logit is the last of those that are used."""
        return self.codebook_size

    @property
    def class_ids(self) -> range:
        """Ids of the class tokens in the embedding table; the null class comes right after."""
        return range(self.mask_id + 1, self.mask_id + 1 + self.nclass)
