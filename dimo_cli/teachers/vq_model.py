"""The image tokenizer of aMUSEd and Meissonic: a convolutional VQ-VAE, on diffusers' own class."""

from __future__ import annotations

from itertools import product
from typing import Literal

import torch
from diffusers.models.autoencoders.vq_model import VQModel
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dimo_cli.specs.base import Int, Spec
from dimo_cli.teachers.expectation import expected
from dimo_cli.teachers.protocol import Cond, Tokenizer

# Beyond this many tokens images are painted one by one: at 64 x 64 tokens the activations of a
# single image take gigabytes already.
TOKENS_AT_ONCE = 1024
# Sides of a tile, and what two tiles share, in tokens.
TILE, OVERLAP = 32, 8


class VQArchitecture(Spec):
    """The settings of the VQ-VAE, under the names of its config file."""

    in_channels: Literal[3] = Field(3, description="Color channels of the images read")
    out_channels: Literal[3] = Field(3, description="Color channels of the images painted")
    block_out_channels: tuple[Int, ...] = Field(
        min_length=1, description="Width of each resolution, full size first"
    )
    down_block_types: tuple[Literal["DownEncoderBlock2D"], ...] = Field(
        description="Kind of encoder block at each resolution"
    )
    up_block_types: tuple[Literal["UpDecoderBlock2D"], ...] = Field(
        description="Kind of decoder block at each resolution"
    )
    layers_per_block: Int = Field(gt=0, description="Residual layers of an encoder block")
    latent_channels: Int = Field(gt=0, description="Channels between encoder and codebook")
    vq_embed_dim: Int | None = Field(None, description="Width of a code; as the latents if null")
    num_vq_embeddings: Int = Field(gt=0, description="Codes in the codebook")
    norm_num_groups: Int = Field(gt=0, description="Groups of the group normalization")
    norm_type: Literal["group"] = Field("group", description="Kind of normalization")
    act_fn: str = Field("silu", description="Activation function")
    mid_block_add_attention: bool = Field(description="Attention at the lowest resolution")
    lookup_from_codebook: Literal[True] = Field(True, description="Decoding starts from token ids")

    @field_validator("down_block_types", "up_block_types")
    @classmethod
    def _one_for_each_resolution(
        cls, blocks: tuple[str, ...], info: ValidationInfo
    ) -> tuple[str, ...]:
        widths = info.data.get("block_out_channels", ())
        if len(blocks) != len(widths):
            raise ValueError(
                f"must name as many blocks as `block_out_channels` has ({len(widths)})"
            )
        return blocks

    @property
    def factor(self) -> int:
        """Pixels along the side of a token."""
        return int(2 ** (len(self.block_out_channels) - 1))


# Entries of published config files that change nothing here.
UNUSED_SETTINGS = (
    "sample_size",  # size of the training images; the network takes any
    "scaling_factor",  # for latent diffusion; never applied to tokens
    "force_upcast",  # asks for float32, which is what this tokenizer always computes in
)

PUBLISHED = {
    "block_out_channels": (128, 256, 256, 512, 768),
    "down_block_types": ("DownEncoderBlock2D",) * 5,
    "up_block_types": ("UpDecoderBlock2D",) * 5,
    "layers_per_block": 2,
    "latent_channels": 64,
    "num_vq_embeddings": 8192,
    "norm_num_groups": 32,
    "mid_block_add_attention": False,
}


def as_pixels(rows: Tensor, grid: tuple[int, int]) -> Tensor:
    """Rows [B, h w, D] of a grid as its pixels [B, D, h, w]."""
    return rows.transpose(1, 2).unflatten(2, grid)


def as_rows(pixels: Tensor) -> Tensor:
    """Pixels [B, D, h, w] as rows [B, h w, D], row by row."""
    return pixels.flatten(2).transpose(1, 2)


def tile_starts(size: int) -> list[int]:
    """Where tiles begin along a side of so many tokens; the last one ends with it."""
    last = max(0, size - TILE)
    return [*range(0, last, TILE - OVERLAP), last]


def blend(pixels: int, like: Tensor) -> Tensor:
    """How much each pixel of a tile counts beside its neighbor's: less towards the edges."""
    places = torch.arange(pixels, device=like.device, dtype=torch.float32) + 0.5
    return torch.minimum(places, pixels - places)


class VQTokenizer(Tokenizer):
    """Images in [-1, 1] to codebook ids over a grid, and back.

    What is trained through computes in float32, whatever autocast says.
    """

    def __init__(self, arch: VQArchitecture, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid, self.factor = grid, arch.factor
        model = VQModel(**arch.model_dump())
        self.encoder, self.quant_conv = model.encoder, model.quant_conv
        self.quantize = model.quantize
        self.post_quant_conv, self.decoder = model.post_quant_conv, model.decoder

    def encode(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            latents = self.quant_conv(self.encoder((images.float() + 1) / 2))
            ids = self.quantize(latents)[2][2]
        return ids.view(len(images), -1, 1)

    def decode(self, tokens: Tensor, cond: Cond | None = None) -> Tensor:
        return self._paint(self.quantize.embedding(tokens.squeeze(-1)))

    def decode_in_tiles(self, tokens: Tensor) -> Tensor:
        """An image in overlapping tiles, blended. Norms see one tile each: colors differ a bit."""
        vectors = as_pixels(self.quantize.embedding(tokens.squeeze(-1)), self.grid)
        height, width = (side * self.factor for side in self.grid)
        canvas, weights = vectors.new_zeros(1, 3, height, width), vectors.new_zeros(height, width)
        for top, left in product(*map(tile_starts, self.grid)):
            tile = self._decoded(vectors[:, :, top : top + TILE, left : left + TILE])
            high, wide = tile.shape[-2:]
            weight = blend(high, tile)[:, None] * blend(wide, tile)
            y, x = top * self.factor, left * self.factor
            canvas[:, :, y : y + high, x : x + wide] += weight * tile
            weights[y : y + high, x : x + wide] += weight
        return canvas / weights

    def decode_probs(self, probs: Tensor, cond: Cond | None = None) -> Tensor:
        with torch.autocast(probs.device.type, enabled=False):
            return self._paint(expected(probs.squeeze(-2), self.quantize.embedding.weight))

    def _paint(self, codes: Tensor) -> Tensor:
        """Codebook vectors [B, L, C] to images."""
        pixels = as_pixels(codes, self.grid)
        # An exported program has any number of images, and no backward pass.
        if codes.shape[1] <= TOKENS_AT_ONCE or torch.compiler.is_exporting():
            return self._decoded(pixels)
        if not torch.is_grad_enabled():
            return torch.cat([self._decoded(one) for one in pixels.split(1)])
        # Recomputed in the backward pass, or else all images would stay in memory after all.
        each = [checkpoint(self._decoded, one, use_reentrant=False) for one in pixels.split(1)]
        return torch.cat(each)

    def _decoded(self, vectors: Tensor) -> Tensor:
        """Codebook vectors [B, C, h, w] to images; the decoder itself works in [0, 1]."""
        return 2 * self.decoder(self.post_quant_conv(vectors)) - 1
