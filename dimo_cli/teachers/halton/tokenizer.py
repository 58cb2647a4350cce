"""LlamaGen's image tokenizer (Sun et al., 2024): convolutions around 16,384 unit vectors.

It is made of MaskGit's layers; levels are listed in the order of their use, and attention is at
the lowest resolution alone. Attributes are named so that the keys of `state_dict()` are published.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.teachers.halton.architecture import Architecture
from dimo_cli.teachers.maskgit.vqgan import (
    IMAGE_CHANNELS,
    Codebook,
    ConvolutionalVQ,
    Downsample,
    ResBlock,
    SpatialAttention,
    Upsample,
    group_norm,
)

LATENTS_AT_ONCE = 4096  # compared with all codes: 256 MiB of distances


class Level(nn.Module):
    """The residual blocks of one resolution, each followed by attention if the level has it.

    At the end an encoder's level may go down to the next resolution, or a decoder's up.
    """

    def __init__(
        self,
        into: int,
        width: int,
        blocks: int,
        attention: bool,
        *,
        down: bool = False,
        up: bool = False,
    ) -> None:
        super().__init__()
        self.res = nn.ModuleList(ResBlock(*pair) for pair in pairwise([into, *[width] * blocks]))
        self.attn = nn.ModuleList(
            SpatialAttention(width) for _ in range(blocks if attention else 0)
        )
        self.downsample = Downsample(width) if down else nn.Identity()
        self.upsample = Upsample(width) if up else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map the features of one level to those that the next one takes."""
        for index, block in enumerate(self.res):
            x = block(x)
            if self.attn:
                x = self.attn[index](x)
        return self.upsample(self.downsample(x))


def middle(width: int) -> nn.Sequential:
    """The layers at the lowest resolution, between the two halves."""
    return nn.Sequential(ResBlock(width, width), SpatialAttention(width), ResBlock(width, width))


class Encoder(nn.Module):
    """Images to features."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        widths = [arch.ch * factor for factor in arch.ch_mult]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(IMAGE_CHANNELS, arch.ch, 3, padding=1)
        self.conv_blocks = nn.ModuleList(
            Level(into, width, arch.num_res_blocks, level == last, down=level < last)
            for level, (into, width) in enumerate(pairwise([arch.ch, *widths]))
        )
        self.mid = middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], arch.z_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Map [B, 3, H, W] to [B, z, h, w]."""
        x = self.conv_in(images)
        for level in self.conv_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Features to images, from the lowest resolution to the highest."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        widths = [arch.ch * factor for factor in reversed(arch.ch_mult)]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(arch.z_channels, widths[0], 3, padding=1)
        self.mid = middle(widths[0])
        self.conv_blocks = nn.ModuleList(
            Level(into, width, arch.num_res_blocks + 1, level == 0, up=level < last)
            for level, (into, width) in enumerate(pairwise([widths[0], *widths]))
        )
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], IMAGE_CHANNELS, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map [B, z, h, w] to [B, 3, H, W]."""
        x = self.mid(self.conv_in(features))
        for level in self.conv_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Directions(Codebook):
    """Vectors that are stored at any length, and used at unit length."""

    def vectors(self) -> Tensor:
        """The unit vectors [K, C]."""
        return F.normalize(self.embedding.weight, dim=-1)

    def nearest(self, latents: Tensor) -> Tensor:
        """Ids [...] of the vectors with the smallest angle to latents [..., C]."""
        table = self.vectors().T
        parts = F.normalize(latents.flatten(0, -2), dim=-1).split(LATENTS_AT_ONCE)
        return torch.cat([(part @ table).argmax(-1) for part in parts]).view(latents.shape[:-1])


class LlamaGenTokenizer(ConvolutionalVQ):
    """LlamaGen's tokenizer."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__(
            Encoder(arch),
            Decoder(arch),
            Directions(arch.codebook_size, arch.codebook_embed_dim),
            arch.z_channels,
            arch.input_size,
        )
