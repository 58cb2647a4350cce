"""Meissonic (Bai et al., 2024) and Monetico: prompts to 1024 or 512 px over a grid of tokens.

Flux-style transformer blocks, first with text and image apart, then with both as one sequence,
between the token embedding and the head of aMUSEd. diffusers has all parts but no such model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import CombinedTimestepTextProjEmbeddings, TimestepEmbedding
from diffusers.models.normalization import RMSNorm
from diffusers.models.transformers.transformer_flux import (
    FluxPosEmbed,
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from diffusers.models.upsampling import Upsample2D
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from dimo_cli.specs.base import Int
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

EPS = 1e-6
ROPE_THETA = 10_000
MICRO_CONDITIONS, MICRO_WIDTH = 5, 256
TIME_SCALE = 1000.0
GUIDANCE = 9.0
# Of every official script, and of the official distillation recipe as well.
NEGATIVE_PROMPT = (
    "worst quality, low quality, low res, blurry, distortion, watermark, logo, signature, text, "
    "jpeg artifacts, signature, sketch, duplicate, ugly, identifying mark"
)


class NetworkArchitecture(SharedArchitecture):
    """The settings of the transformer, under the names of its config file, as Muddit has them."""

    num_layers: Int = Field(gt=0, description="Blocks with text and image apart")
    num_single_layers: Int = Field(gt=0, description="Blocks with both as one sequence")
    attention_head_dim: Int = Field(gt=0, description="Width of an attention head")
    num_attention_heads: Int = Field(gt=0, description="Attention heads")
    joint_attention_dim: Int = Field(gt=0, description="Width of the text states")
    pooled_projection_dim: Int = Field(gt=0, description="Width of the pooled text")
    axes_dims_rope: tuple[Int, Int, Int] = Field(
        description="Width of the rotary embedding for a constant, the row and the column"
    )
    guidance_embeds: Literal[False] = Field(False, description="Guidance as an input: not trained")

    @field_validator("axes_dims_rope")
    @classmethod
    def _fills_a_head(cls, axes: tuple[int, int, int], info: ValidationInfo) -> tuple[int, ...]:
        width = info.data.get("attention_head_dim", sum(axes))
        if sum(axes) != width or any(axis % 2 for axis in axes):
            raise ValueError(f"must be even numbers that add up to `attention_head_dim` ({width})")
        return axes

    @property
    def width(self) -> int:
        """Width D of the model."""
        return self.attention_head_dim * self.num_attention_heads


class Architecture(NetworkArchitecture):
    """The settings of Meissonic's own transformer."""

    @field_validator("pooled_projection_dim")
    @classmethod
    def _is_the_width(cls, width: int, info: ValidationInfo) -> int:
        # The condition vector, as wide as the model, goes into a layer declared for pooled text.
        heads, each = info.data.get("num_attention_heads"), info.data.get("attention_head_dim")
        if heads and each and width != heads * each:
            raise ValueError(f"must be as wide as all attention heads ({heads * each})")
        return width


PUBLISHED: dict[str, Any] = {
    "vocab_size": 8256,
    "codebook_size": 8192,
    "num_layers": 14,
    "num_single_layers": 28,
    "attention_head_dim": 128,
    "num_attention_heads": 8,
    "joint_attention_dim": 1024,
    "pooled_projection_dim": 1024,
    "axes_dims_rope": (16, 56, 56),
}
# Left over from Flux: this model has neither patches nor latent channels.
UNUSED_SETTINGS = ("patch_size", "in_channels")

VARIANTS: dict[str, Variant] = {
    "meissonic": Variant(
        "MeissonFlow/Meissonic",
        "Apache-2.0",
        "prompts to 1024x1024, 1.0B parameters",
        image_size=1024,
        resamples=True,
        steps=64,
    ),
    "monetico": Variant(
        "Collov-Labs/Monetico",
        "other",
        "prompts to 512x512, 1.0B parameters",
        image_size=512,
        resamples=False,
        steps=48,
    ),
}


Place = tuple[tuple[int, int, int], tuple[int, int], int, torch.device]
"""Widths of the axes, grid, length of the text, and device of a rotary table."""
ROTARY_TABLES: dict[Place, Tensor] = {}
MOST_TABLES = 16


def rotary_table(
    axes: tuple[int, int, int], grid: tuple[int, int], text_length: int, device: torch.device
) -> Tensor:
    """Cosines and sines [2, T + h w, head width] of every position, text first.

    They are kept, unless they are the stand-ins of a rehearsal, in which there are no numbers.
    """
    place = (axes, grid, text_length, device)
    if place in ROTARY_TABLES:
        return ROTARY_TABLES[place]
    table = build_rotary_table(*place)
    if type(table) is Tensor:
        if len(ROTARY_TABLES) == MOST_TABLES:
            ROTARY_TABLES.pop(next(iter(ROTARY_TABLES)))
        ROTARY_TABLES[place] = table
    return table


def build_rotary_table(
    axes: tuple[int, int, int], grid: tuple[int, int], text_length: int, device: torch.device
) -> Tensor:
    """Text has no position. Pixels have their row and column; the first axis is unused."""
    # A table that is first needed while sampling must still serve a backward pass later.
    with torch.inference_mode(False), torch.no_grad():
        rows, columns = (torch.arange(size, device=device) for size in grid)
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
        ids = torch.zeros(text_length + len(places), len(axes), device=device)
        ids[text_length:, 1:] = places.float()
        return torch.stack(FluxPosEmbed(ROPE_THETA, list(axes))(ids))


def down_block(width: int) -> nn.Sequential:
    """Half the rows and columns: RMSNorm and a convolution of 2x2 pixels."""
    layer = Downsample2D(
        width,
        use_conv=True,
        padding=0,
        kernel_size=2,
        name="Conv2d_0",
        norm_type="rms_norm",
        eps=EPS,
        elementwise_affine=True,
        bias=False,
    )
    return nn.Sequential(OrderedDict(downsample=layer))


def up_block(width: int) -> nn.Sequential:
    """Twice the rows and columns: RMSNorm and a transposed convolution."""
    layer = Upsample2D(
        width,
        use_conv_transpose=True,
        padding=0,
        kernel_size=2,
        name="conv",
        norm_type="rms_norm",
        eps=EPS,
        elementwise_affine=True,
        bias=False,
        interpolate=False,
    )
    return nn.Sequential(OrderedDict(upsample=layer))


class MeissonicBackbone(AmusedStyleBackbone):
    """The transformer of Meissonic.

    Conditions are `text` [B, T, C], `pooled` [B, P], `micro` [B, 5] and, while a teacher samples,
    `time` [B]: the number of steps left. Without it the time is 0, as in Di[M]O.

    Taps count the double blocks first, then the single ones. They are of image tokens at the
    resolution the transformer sees: [B, L / 4, D] where the grid is halved in front of it.
    """

    micro_width = MICRO_WIDTH

    def __init__(self, arch: NetworkArchitecture, grid: tuple[int, int]) -> None:
        super().__init__()
        width, heads = arch.width, (arch.num_attention_heads, arch.attention_head_dim)
        self.axes, self.grid = arch.axes_dims_rope, grid
        self.inner_grid = (grid[0] // 2, grid[1] // 2) if arch.downsample else grid

        self.add_module(
            "embed", TokenEmbedding(width, width, arch.vocab_size, True, EPS, bias=False)
        )
        self.mlm_layer = TokenHead(width, width, False, True, EPS, arch.codebook_size)
        self.cond_embed = TimestepEmbedding(
            MICRO_CONDITIONS * MICRO_WIDTH + arch.pooled_projection_dim,
            width,
            sample_proj_bias=False,
        )
        self.time_text_embed = CombinedTimestepTextProjEmbeddings(width, width)
        self.context_embedder = nn.Linear(arch.joint_attention_dim, width)
        self.encoder_proj_layer_norm = RMSNorm(width, EPS)
        self.down_block = down_block(width) if arch.downsample else nn.Sequential()
        self.project_to_hidden_norm = RMSNorm(width, EPS)
        self.project_to_hidden = nn.Linear(width, width, bias=False)
        self.transformer_blocks = nn.ModuleList(
            FluxTransformerBlock(width, *heads) for _ in range(arch.num_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            FluxSingleTransformerBlock(width, *heads) for _ in range(arch.num_single_layers)
        )
        self.project_from_hidden_norm = RMSNorm(width, EPS)
        self.project_from_hidden = nn.Linear(width, width, bias=False)
        self.up_block = up_block(width) if arch.upsample else nn.Sequential()

    def hidden(
        self, embeds: Tensor, cond: Cond, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        text = self.context_embedder(cond.tensors["text"].to(self.dtype))
        text = self.encoder_proj_layer_norm(text)
        control = self.time_text_embed(self.time(cond), self.control(cond))
        rotary = rotary_table(self.axes, self.inner_grid, text.shape[1], embeds.device)

        image = as_rows(self.down_block(as_pixels(embeds, self.grid)))
        image = self.project_to_hidden(self.project_to_hidden_norm(image))
        tapped = []
        blocks = [*self.transformer_blocks, *self.single_transformer_blocks]
        for index, block in enumerate(blocks):
            text, image = self.run_block(block, image, text, control, rotary)
            if index in taps:
                tapped.append(image)
        image = self.project_from_hidden(self.project_from_hidden_norm(image))
        image = as_rows(self.up_block(as_pixels(image, self.inner_grid)))
        return (image, tapped) if taps else image

    def time(self, cond: Cond) -> Tensor:
        """The time [B] that the network is told, in its own unit and in float32."""
        if "time" not in cond.tensors:
            return torch.zeros_like(cond.tensors["micro"][:, 0])
        return cond.tensors["time"].float() * TIME_SCALE


def blueprint(
    variant: str, architecture: Settings, read_config: ReadConfig | None = None
) -> Blueprint:
    """The blueprint of a published variant."""
    facts = VARIANTS[variant]
    arch = read_networks(Architecture, facts, PUBLISHED, UNUSED_SETTINGS, architecture, read_config)
    return build_blueprint(
        variant,
        "meissonic",
        facts,
        arch,
        build_backbone=partial(MeissonicBackbone, arch, arch.grid),
        text_widths=(arch.joint_attention_dim, arch.pooled_projection_dim),
        guidance=GUIDANCE,
        told="index",
        negative_prompt=NEGATIVE_PROMPT,
    )
