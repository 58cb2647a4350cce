"""aMUSEd (Patil et al., 2024): prompts to 256 or 512 px, a light text-to-image teacher.

The transformer is diffusers' `UVit2DModel`: convolutions that attend to the text around a stack of
transformer layers. It is told neither a time nor a position.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from diffusers.models.normalization import RMSNorm
from diffusers.models.unets.uvit_2d import UVit2DModel, UVitBlock
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from dimo_cli.specs.base import Int, Real
from dimo_cli.teachers.amused_parts import (
    AmusedStyleBackbone,
    SharedArchitecture,
    TokenEmbedding,
    TokenHead,
    Variant,
    build_blueprint,
    read_networks,
)
from dimo_cli.teachers.blueprint import Blueprint, ReadConfig, Settings
from dimo_cli.teachers.protocol import Cond
from dimo_cli.teachers.vq_model import as_pixels, as_rows

GUIDANCE = 10.0
MICRO_CONDITIONS = 5


class Architecture(SharedArchitecture):
    """The settings of the transformer, under the names of its config file."""

    hidden_size: Int = Field(gt=0, description="Width of the transformer layers")
    num_hidden_layers: Int = Field(gt=0, description="Transformer layers")
    num_attention_heads: Int = Field(gt=0, description="Attention heads of a transformer layer")
    intermediate_size: Int = Field(gt=0, description="Inner width of its feed-forward part")
    in_channels: Int = Field(gt=0, description="Width of the token embedding")
    block_out_channels: Int = Field(gt=0, description="Width of the convolution blocks")
    num_res_blocks: Int = Field(gt=0, description="Convolutions in each of the two blocks")
    block_num_heads: Int = Field(gt=0, description="Attention heads of a convolution block")
    encoder_hidden_size: Int = Field(gt=0, description="Width of the text states")
    cond_embed_dim: Int = Field(gt=0, description="Width of the pooled text")
    micro_cond_encode_dim: Int = Field(gt=0, description="Sinusoids of one micro-condition")
    micro_cond_embed_dim: Int = Field(gt=0, description="Sinusoids of all five")
    use_bias: bool = Field(False, description="Biases in linear layers and convolutions")
    hidden_dropout: Real = Field(0.0, ge=0, lt=1, description="Dropout of hidden states")
    attention_dropout: Real = Field(0.0, ge=0, lt=1, description="Dropout behind attention")
    layer_norm_eps: Real = Field(1e-6, gt=0, description="Floor of the norms' variance")
    ln_elementwise_affine: bool = Field(True, description="Learned scales of the norms")

    @field_validator("micro_cond_embed_dim")
    @classmethod
    def _holds_all_micro_conditions(cls, width: int, info: ValidationInfo) -> int:
        each = info.data.get("micro_cond_encode_dim")
        if each and width != MICRO_CONDITIONS * each:
            raise ValueError(f"must be {MICRO_CONDITIONS} times `micro_cond_encode_dim` ({each})")
        return width


PUBLISHED: dict[str, Any] = {
    "vocab_size": 8256,
    "codebook_size": 8192,
    "hidden_size": 1024,
    "num_hidden_layers": 22,
    "num_attention_heads": 16,
    "intermediate_size": 2816,
    "in_channels": 768,
    "block_out_channels": 768,
    "num_res_blocks": 3,
    "block_num_heads": 12,
    "encoder_hidden_size": 768,
    "cond_embed_dim": 768,
    "micro_cond_encode_dim": 256,
    "micro_cond_embed_dim": 1280,
}
UNUSED_SETTINGS = ("sample_size",)  # the grid, which follows from `image_size` here

VARIANTS: dict[str, Variant] = {
    "amused-256": Variant(
        "amused/amused-256",
        "openrail++",
        "prompts to 256x256, 604M parameters",
        image_size=256,
        resamples=False,
        steps=12,
    ),
    "amused-512": Variant(
        "amused/amused-512",
        "openrail++",
        "prompts to 512x512, 608M parameters",
        image_size=512,
        resamples=True,
        steps=12,
    ),
}


class Positional(nn.Module):
    """A block of diffusers that takes its tensors by position, as `run_block` passes them."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, text: Tensor, control: Tensor) -> Tensor:
        """The block's output."""
        if isinstance(self.block, UVitBlock):
            return self.block(x, control, text, None)
        modulation = {"pooled_text_emb": control}
        return self.block(x, encoder_hidden_states=text, added_cond_kwargs=modulation)


class AmusedBackbone(AmusedStyleBackbone):
    """The transformer of aMUSEd, made of the parts of a `UVit2DModel`.

    Conditions are `text` [B, T, C], `pooled` [B, C] and `micro` [B, 5]. Taps are the transformer
    layers, at the resolution these see: [B, L / 4, D] where the grid is halved in front of them.
    """

    encoder_proj: nn.Linear
    encoder_proj_layer_norm: RMSNorm
    down_block: UVitBlock
    project_to_hidden_norm: RMSNorm
    project_to_hidden: nn.Linear
    transformer_layers: nn.ModuleList
    project_from_hidden_norm: RMSNorm
    project_from_hidden: nn.Linear
    up_block: UVitBlock

    def __init__(self, arch: Architecture, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid, self.micro_width = grid, arch.micro_cond_encode_dim
        model = UVit2DModel(**arch.model_dump(exclude={"vqvae", "image_size"}))
        # The same layers, which here take rows where diffusers has pixels.
        norm = (arch.ln_elementwise_affine, arch.layer_norm_eps)
        widths = (arch.in_channels, arch.block_out_channels)
        model.embed = TokenEmbedding(*widths, arch.vocab_size, *norm, arch.use_bias)
        model.mlm_layer = TokenHead(
            *reversed(widths), arch.use_bias, *norm, codebook_size=arch.codebook_size
        )
        for name, part in model.named_children():
            self.add_module(name, part)

    def hidden(
        self, embeds: Tensor, cond: Cond, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        text = self.encoder_proj_layer_norm(self.encoder_proj(cond.tensors["text"].to(self.dtype)))
        conditions = (text, self.control(cond))
        x = self.run_block(Positional(self.down_block), as_pixels(embeds, self.grid), *conditions)
        inner_grid = (x.shape[-2], x.shape[-1])
        x = self.project_to_hidden(self.project_to_hidden_norm(as_rows(x)))
        tapped = []
        for index, layer in enumerate(self.transformer_layers):
            x = self.run_block(Positional(layer), x, *conditions)
            if index in taps:
                tapped.append(x)
        x = self.project_from_hidden(self.project_from_hidden_norm(x))
        x = self.run_block(Positional(self.up_block), as_pixels(x, inner_grid), *conditions)
        return (as_rows(x), tapped) if taps else as_rows(x)


def blueprint(
    variant: str, architecture: Settings, read_config: ReadConfig | None = None
) -> Blueprint:
    """The blueprint of a published variant."""
    facts = VARIANTS[variant]
    arch = read_networks(Architecture, facts, PUBLISHED, UNUSED_SETTINGS, architecture, read_config)
    return build_blueprint(
        variant,
        "amused",
        facts,
        arch,
        build_backbone=partial(AmusedBackbone, arch, arch.grid),
        text_widths=(arch.encoder_hidden_size, arch.cond_embed_dim),
        guidance=GUIDANCE,
        told=None,
        negative_prompt="",
    )
