"""The pixel decoder of TiTok: the convolutional decoder of a MaskGIT-VQGAN, without attention.

Names of modules are those of the published files.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.teachers.titok.architecture import PixelDecoderSize


def conv3(channels: int, out: int, bias: bool = True) -> nn.Conv2d:
    """A convolution that keeps the size of the plane."""
    return nn.Conv2d(channels, out, 3, padding=1, bias=bias)


def norm(channels: int) -> nn.GroupNorm:
    """The norm before every nonlinearity."""
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two convolutions and a skip.

    Where the channels change, the published network skips nothing: what it adds to the branch is a
    1x1 convolution of the branch itself. Its weights were trained that way.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm1 = norm(channels)
        self.conv1 = conv3(channels, out, bias=False)
        self.norm2 = norm(out)
        self.conv2 = conv3(out, out, bias=False)
        self.nin_shortcut = nn.Conv2d(out, out, 1, bias=False) if channels != out else None

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] to [B, out, h, w]."""
        branch = self.conv1(F.silu(self.norm1(x)))
        branch = self.conv2(F.silu(self.norm2(branch)))
        return branch + (x if self.nin_shortcut is None else self.nin_shortcut(branch))


class Level(nn.Module):
    """The blocks of one resolution, then twice the size unless it is the last."""

    def __init__(self, channels: int, out: int, blocks: int, upsample: bool) -> None:
        super().__init__()
        self.block = nn.Sequential(
            *(ResidualBlock(channels if index == 0 else out, out) for index in range(blocks))
        )
        self.upsample_conv = conv3(out, out) if upsample else None

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] to [B, out, 2h, 2w], or to [B, out, h, w] where it is the last."""
        x = self.block(x)
        if self.upsample_conv is None:
            return x
        return self.upsample_conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class PixelDecoder(nn.Module):
    """A grid of code vectors to an image in [0, 1]."""

    def __init__(self, size: PixelDecoderSize) -> None:
        super().__init__()
        # From full size (level 0) down; the smallest level keeps its channels.
        channels = [size.hidden_channels * factor for factor in size.channel_mult]
        channels.append(channels[-1])
        self.conv_in = conv3(size.z_channels, channels[-1])
        self.mid = nn.Sequential(
            *(ResidualBlock(channels[-1], channels[-1]) for _ in range(size.num_res_blocks))
        )
        self.up = nn.ModuleList(
            Level(below, own, size.num_res_blocks, upsample=level > 0)
            for level, (own, below) in enumerate(pairwise(channels))
        )
        self.norm_out = norm(channels[0])
        self.conv_out = conv3(channels[0], 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] to [B, 3, H, W]; each level but one doubles the size."""
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))
