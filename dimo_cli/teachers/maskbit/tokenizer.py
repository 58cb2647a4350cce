"""The tokenizer of MaskBit: a convolutional autoencoder whose code is the sign of each channel.

Attribute names give the published keys. Inside, images are in [0, 1]; `decoder.up.0` is the lowest
resolution.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.teachers.maskbit.architecture import Architecture
from dimo_cli.teachers.maskbit.bits import expected_signs, signs_of, tokens_of
from dimo_cli.teachers.protocol import Cond, Tokenizer


def group_norm(channels: int) -> nn.GroupNorm:
    """The normalization of every layer."""
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResBlock(nn.Module):
    """Two convolutions beside a shortcut.

    Where the number of channels changes, the published shortcut starts at the result of the
    convolutions, not at the block's input: y + W y instead of y + x.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = group_norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm2 = group_norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.nin_shortcut: nn.Module | None = None
        if channels_in != channels_out:
            self.nin_shortcut = nn.Conv2d(channels_out, channels_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C_in, H, W] to [B, C_out, H, W]."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (x if self.nin_shortcut is None else self.nin_shortcut(y))


class Stage(nn.Module):
    """The residual blocks of one resolution; the first may change the number of channels."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int) -> None:
        super().__init__()
        widths = [channels_in] + [channels_out] * blocks
        self.res_blocks = nn.Sequential(*(ResBlock(*pair) for pair in pairwise(widths)))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C_in, H, W] to [B, C_out, H, W]."""
        return self.res_blocks(x)


class DownStage(Stage):
    """A stage that halves the resolution behind its blocks."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int) -> None:
        super().__init__(channels_in, channels_out, blocks)
        self.down_conv = nn.Conv2d(channels_out, channels_out, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C_in, H, W] to [B, C_out, H / 2, W / 2]."""
        x = super().forward(x)
        return self.down_conv(F.pad(x, (0, 1, 0, 1)))  # one column right and one row below


class UpStage(Stage):
    """A stage that doubles the resolution behind its blocks."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int) -> None:
        super().__init__(channels_in, channels_out, blocks)
        self.upsample_conv = nn.Conv2d(channels_out, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C_in, H, W] to [B, C_out, 2 H, 2 W]."""
        x = super().forward(x)
        return self.upsample_conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Encoder(nn.Module):
    """Images in [0, 1] to one real number per bit."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        base, blocks = arch.hidden_channels, arch.num_res_blocks
        widths = [base, *(base * multiple for multiple in arch.channel_mult)]
        *strided, last = pairwise(widths)
        self.conv_in = nn.Conv2d(3, base, 3, padding=1, bias=False)
        self.down = nn.Sequential(
            *(DownStage(*pair, blocks) for pair in strided), Stage(*last, blocks)
        )
        self.mid = Stage(widths[-1], widths[-1], blocks)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], arch.bits, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map [B, 3, H, W] to [B, bits, h, w]."""
        x = self.mid(self.down(self.conv_in(images)))
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """Sign bits to images in about [0, 1]: nothing bounds the output."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        blocks = arch.num_res_blocks
        widths = [arch.hidden_channels * multiple for multiple in reversed(arch.channel_mult)]
        *doubled, last = pairwise([widths[0], *widths])
        self.conv_in = nn.Conv2d(arch.bits, widths[0], 3, padding=1)
        self.mid = Stage(widths[0], widths[0], blocks)
        self.up = nn.Sequential(*(UpStage(*pair, blocks) for pair in doubled), Stage(*last, blocks))
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, signs: Tensor) -> Tensor:
        """Map [B, bits, h, w] to [B, 3, H, W]."""
        x = self.up(self.mid(self.conv_in(signs)))
        return self.conv_out(F.silu(self.norm_out(x)))


class SignQuantizer(nn.Module):
    """What published files hold of the quantizer: constants that follow from the bit order."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.register_buffer("bits_to_indices", 2 ** torch.arange(bits).int())
        self.register_buffer("codebook", signs_of(torch.arange(2**bits), bits).float())


class MaskBitTokenizer(Tokenizer):
    """Images in [-1, 1] to sign bits, grouped into tokens [B, L, G], and back."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.groups, self.group_bits, self.side = arch.codebook_splits, arch.group_bits, arch.side
        self.encoder = Encoder(arch)
        self.decoder = Decoder(arch)
        self.quantize = SignQuantizer(arch.bits)

    def encode(self, images: Tensor) -> Tensor:
        # In half precision numbers near zero would change their sign, and with it the token.
        with torch.autocast(images.device.type, enabled=False):
            z = self.encoder((images.to(self.encoder.conv_in.weight.dtype) + 1) / 2)
        is_set = (z > 0).flatten(2).transpose(1, 2)
        return tokens_of(is_set.unflatten(-1, (self.groups, self.group_bits)))

    def decode(self, tokens: Tensor, cond: Cond | None = None) -> Tensor:
        return self._paint(signs_of(tokens, self.group_bits))

    def decode_probs(self, probs: Tensor, cond: Cond | None = None) -> Tensor:
        return self._paint(expected_signs(probs, self.group_bits))

    def _paint(self, signs: Tensor) -> Tensor:
        """Signs [B, L, G, bits] to images [B, 3, H, W]."""
        planes = signs.flatten(-2).transpose(1, 2).unflatten(-1, (self.side, self.side))
        return 2 * self.decoder(planes.to(self.decoder.conv_in.weight.dtype)) - 1
