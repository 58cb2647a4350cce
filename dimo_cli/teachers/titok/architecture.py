"""What of a TiTok model can vary, under the names of its published config files."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from dimo_cli.specs.base import Int, Real, Spec
from dimo_cli.teachers.maskgen.vit import NamedSize


class PixelDecoderSize(Spec):
    """The convolutional decoder that turns a soft grid of codes into pixels."""

    num_embeddings: Int = Field(1024, gt=0, description="Rows of its own codebook")
    z_channels: Int = Field(256, gt=0, description="Size of a row of its codebook")
    hidden_channels: Int = Field(128, gt=0, multiple_of=32, description="Channels at full size")
    channel_mult: tuple[Annotated[Int, Field(gt=0)], ...] = Field(
        (1, 1, 2, 2, 4), min_length=1, description="Factor on the channels of each resolution"
    )
    num_res_blocks: Int = Field(2, gt=0, description="Residual blocks of each resolution")


class Architecture(Spec):
    """Sizes of the tokenizer and of the generator; the defaults are what all variants share."""

    crop_size: Int = Field(256, gt=0, description="Side of the images that are encoded")
    codebook_size: Int = Field(4096, gt=0, description="Image codes")
    token_size: Int = Field(12, gt=0, description="Size of a code's vector")
    num_latent_tokens: Int = Field(gt=0, description="Tokens of an image")
    vit_enc_model_size: NamedSize = Field(description="Transformer of the encoder")
    vit_dec_model_size: NamedSize = Field(description="Transformer of the decoder")
    vit_enc_patch_size: Int = Field(16, gt=0, description="Side of the encoder's patches")
    vit_dec_patch_size: Int = Field(16, gt=0, description="Side of the decoder's patches")
    pixel_decoder: PixelDecoderSize = Field(
        default_factory=PixelDecoderSize, description="From patches to pixels"
    )

    model_type: Literal["ViT", "UViT"] = Field(description="Kind of the generator: BERT or U-ViT")
    hidden_size: Int = Field(gt=0, description="Width of the generator")
    num_hidden_layers: Int = Field(gt=0, description="Blocks; a U-ViT has a middle one on top")
    num_attention_heads: Int = Field(16, gt=0, description="Heads of the generator's attention")
    intermediate_size: Int = Field(gt=0, description="Width inside the generator's MLPs")
    dropout: Real = Field(0.1, ge=0, lt=1, description="On embeddings and branches; BERT only")
    attn_drop: Real = Field(0.1, ge=0, lt=1, description="On attention weights; BERT only")
    condition_num_classes: Int = Field(1000, gt=0, description="Classes of the condition")

    @field_validator("vit_enc_patch_size", "vit_dec_patch_size")
    @classmethod
    def _patches_fill_the_image(cls, patch: int, info: ValidationInfo) -> int:
        if info.data.get("crop_size", 0) % patch:
            raise ValueError(f"must divide crop_size ({info.data['crop_size']})")
        return patch

    @field_validator("num_attention_heads")
    @classmethod
    def _heads_share_the_width(cls, heads: int, info: ValidationInfo) -> int:
        if info.data.get("hidden_size", 0) % heads:
            raise ValueError(f"must divide hidden_size ({info.data['hidden_size']})")
        return heads

    @property
    def decoded_size(self) -> int:
        """Side of the decoded images: each resolution of the pixel decoder but one doubles it."""
        grid = self.crop_size // self.vit_dec_patch_size
        return grid * 2 ** (len(self.pixel_decoder.channel_mult) - 1)
