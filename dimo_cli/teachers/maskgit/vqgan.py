"""The VQGAN (Esser et al., 2021) that MaskGit's tokens come from: convolutions around a codebook.

Attributes are named so that the keys of `state_dict()` are those of the published file.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.teachers.expectation import expected
from dimo_cli.teachers.maskgit.architecture import MaskGitArchitecture
from dimo_cli.teachers.protocol import Cond, Tokenizer

IMAGE_CHANNELS = 3


def group_norm(width: int) -> nn.GroupNorm:
    """The only norm in use."""
    return nn.GroupNorm(32, width, eps=1e-6)


class ResBlock(nn.Module):
    """Norm, swish and convolution, twice, around a skip that is 1x1 where the width changes."""

    def __init__(self, into: int, width: int) -> None:
        super().__init__()
        self.norm1 = group_norm(into)
        self.conv1 = nn.Conv2d(into, width, 3, padding=1)
        self.norm2 = group_norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(into, width, 1) if into != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, into, h, w] to [B, width, h, w]."""
        inner = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(inner)))


class SpatialAttention(nn.Module):
    """Attention of every place to every place, with one head as wide as the features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = group_norm(width)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] to [B, C, h, w]."""
        normed = self.norm(x)
        q, k, v = (
            project(normed).flatten(2).transpose(1, 2) for project in (self.q, self.k, self.v)
        )
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(attended.transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    """Halve height and width; the padding is on the right and at the bottom only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] to [B, C, h / 2, w / 2]."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double height and width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] to [B, C, 2 h, 2 w]."""
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Level(nn.Module):
    """The residual blocks of one resolution, each followed by attention if the level has it.

    At the end an encoder's level may go down to the next resolution, or a decoder's up.
    """

    def __init__(
        self, into: int, width: int, blocks: int, attention: bool, *, down: bool, up: bool
    ) -> None:
        super().__init__()
        widths = [into, *[width] * blocks]
        self.block = nn.ModuleList(ResBlock(*pair) for pair in pairwise(widths))
        self.attn = nn.ModuleList(
            SpatialAttention(width) for _ in range(blocks if attention else 0)
        )
        self.downsample = Downsample(width) if down else nn.Identity()
        self.upsample = Upsample(width) if up else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map the features of one level to those that the next one takes."""
        for index, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[index](x)
        return self.upsample(self.downsample(x))


def middle(width: int) -> nn.Sequential:
    """The layers at the lowest resolution, between the two halves."""
    return nn.Sequential(
        OrderedDict(
            block_1=ResBlock(width, width),
            attn_1=SpatialAttention(width),
            block_2=ResBlock(width, width),
        )
    )


def has_attention(settings: MaskGitArchitecture, level: int) -> bool:
    """Whether a level has attention: decided at the nominal resolution, whatever images come."""
    return settings.resolution // 2**level in settings.attn_resolutions


class Encoder(nn.Module):
    """Images to features."""

    def __init__(self, settings: MaskGitArchitecture) -> None:
        super().__init__()
        widths = [settings.ch * factor for factor in settings.ch_mult]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(IMAGE_CHANNELS, settings.ch, 3, padding=1)
        self.down = nn.ModuleList(
            Level(
                widths[level - 1] if level else settings.ch,
                width,
                settings.num_res_blocks,
                has_attention(settings, level),
                down=level < last,
                up=False,
            )
            for level, width in enumerate(widths)
        )
        self.mid = middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], settings.z_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Map [B, 3, H, W] to [B, z, h, w]."""
        x = self.conv_in(images)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Features to images; `up` is indexed by level, and used from the last to the first."""

    def __init__(self, settings: MaskGitArchitecture) -> None:
        super().__init__()
        widths = [settings.ch * factor for factor in settings.ch_mult]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(settings.z_channels, widths[-1], 3, padding=1)
        self.mid = middle(widths[-1])
        self.up = nn.ModuleList(
            Level(
                widths[min(level + 1, last)],
                width,
                settings.num_res_blocks + 1,
                has_attention(settings, level),
                down=False,
                up=level > 0,
            )
            for level, width in enumerate(widths)
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], IMAGE_CHANNELS, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map [B, z, h, w] to [B, 3, H, W]."""
        x = self.mid(self.conv_in(features))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Codebook(nn.Module):
    """The vectors that latents are rounded to."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, width)

    def vectors(self) -> Tensor:
        """The vectors [K, C]."""
        return self.embedding.weight

    def nearest(self, latents: Tensor) -> Tensor:
        """Ids [...] of the vectors closest to latents [..., C]: plain distance, nothing normed."""
        table = self.embedding.weight
        return (table.square().sum(-1) - 2 * latents @ table.T).argmin(-1)

    def clamped(self, tokens: Tensor) -> Tensor:
        """Ids that have a vector: beyond them lies the mask id, which can be drawn as well."""
        return tokens.clamp(max=self.embedding.num_embeddings - 1)


class ConvolutionalVQ(Tokenizer):
    """Square images and their codes, row by row: convolutions around a codebook."""

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, codebook: Codebook, z_channels: int, grid: int
    ) -> None:
        super().__init__()
        self.grid = grid
        self.encoder = encoder
        self.decoder = decoder
        self.quantize = codebook
        width = codebook.embedding.embedding_dim
        self.quant_conv = nn.Conv2d(z_channels, width, 1)
        self.post_quant_conv = nn.Conv2d(width, z_channels, 1)

    def latents(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] to latents [B, C, h, w], before they are rounded."""
        return self.quant_conv(self.encoder(images))

    def encode(self, images: Tensor) -> Tensor:
        return self.quantize.nearest(self.latents(images).flatten(2).transpose(1, 2))[..., None]

    def decode(self, tokens: Tensor, cond: Cond | None = None) -> Tensor:
        return self.paint(self.quantize.vectors()[self.quantize.clamped(tokens.squeeze(-1))])

    def decode_probs(self, probs: Tensor, cond: Cond | None = None) -> Tensor:
        ids = self.quantize.clamped(torch.arange(probs.shape[-1], device=probs.device))
        return self.paint(expected(probs.squeeze(-2), self.quantize.vectors()[ids]))

    def paint(self, vectors: Tensor) -> Tensor:
        """Codebook vectors, or mixtures of them, [B, L, C] to images [B, 3, H, W]."""
        latents = vectors.transpose(1, 2).unflatten(-1, (self.grid, self.grid))
        return self.decoder(self.post_quant_conv(latents))


class VQGAN(ConvolutionalVQ):
    """MaskGit's tokenizer."""

    def __init__(self, settings: MaskGitArchitecture) -> None:
        super().__init__(
            Encoder(settings),
            Decoder(settings),
            Codebook(settings.codebook_size, settings.embed_dim),
            settings.z_channels,
            settings.grid,
        )
