"""MAGVIT-v2 as Show-o has it (Yu et al., 2023): convolutions around the signs of some channels.

It is made of MaskGit's layers, with attention at the lowest resolution alone. Attributes are named
so that the keys of `state_dict()` are published. Shapes: B batch, L tokens, V codes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.teachers.expectation import expected
from dimo_cli.teachers.maskgit.vqgan import IMAGE_CHANNELS, Level, group_norm, middle
from dimo_cli.teachers.protocol import Cond, Tokenizer
from dimo_cli.teachers.showo.architecture import Architecture


def signs_of(tokens: Tensor, bits: int) -> Tensor:
    """The sign bits [..., bits] of tokens [...]: the first is the highest."""
    places = torch.arange(bits - 1, -1, -1, device=tokens.device)
    return 2 * (tokens[..., None] >> places & 1) - 1


def tokens_of(is_set: Tensor) -> Tensor:
    """The tokens [...] whose set bits [..., bits] are true."""
    places = torch.arange(is_set.shape[-1] - 1, -1, -1, device=is_set.device)
    return (is_set.long() << places).sum(-1)


class Encoder(nn.Module):
    """Images to one real number for each bit of a token."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        sizes = arch.magvitv2.encoder
        widths, last = sizes.widths, len(sizes.ch_mult) - 1
        self.conv_in = nn.Conv2d(IMAGE_CHANNELS, sizes.ch, 3, padding=1)
        self.down = nn.ModuleList(
            Level(into, width, blocks, False, down=level < last, up=False)
            for level, (into, width, blocks) in enumerate(
                zip([sizes.ch, *widths[:-1]], widths, sizes.num_res_blocks, strict=True)
            )
        )
        self.mid = middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], arch.bits, 3, padding=1)
        self.quant_conv = nn.Conv2d(arch.bits, arch.bits, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map [B, 3, H, W] to [B, bits, h, w]."""
        x = self.conv_in(images)
        for level in self.down:
            x = level(x)
        return self.quant_conv(self.conv_out(F.silu(self.norm_out(self.mid(x)))))


class Decoder(nn.Module):
    """Sign bits to images; `up` is indexed by level, and used from the last to the first."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        sizes = arch.magvitv2.decoder
        widths = sizes.widths
        self.post_quant_conv = nn.Conv2d(arch.bits, arch.bits, 1)
        self.conv_in = nn.Conv2d(arch.bits, widths[-1], 3, padding=1)
        self.mid = middle(widths[-1])
        self.up = nn.ModuleList(
            Level(into, width, blocks, False, down=False, up=level > 0)
            for level, (into, width, blocks) in enumerate(
                zip([*widths[1:], widths[-1]], widths, sizes.num_res_blocks, strict=True)
            )
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], IMAGE_CHANNELS, 3, padding=1)

    def forward(self, signs: Tensor) -> Tensor:
        """Map [B, bits, h, w] to [B, 3, H, W]."""
        x = self.mid(self.conv_in(self.post_quant_conv(signs)))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class MagvitTokenizer(Tokenizer):
    """Square images and their codes, row by row; a code is the signs of all channels."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.bits, self.side = arch.bits, arch.side
        self.encoder = Encoder(arch)
        self.decoder = Decoder(arch)

    def encode(self, images: Tensor) -> Tensor:
        # In half precision numbers near zero would change their sign, and with it the token.
        with torch.autocast(images.device.type, enabled=False):
            z = self.encoder(images.to(self.encoder.conv_in.weight.dtype))
        return tokens_of((z > 0).flatten(2).transpose(1, 2))[..., None]

    def decode(self, tokens: Tensor, cond: Cond | None = None) -> Tensor:
        return self.paint(signs_of(tokens.squeeze(-1), self.bits))

    def decode_probs(self, probs: Tensor, cond: Cond | None = None) -> Tensor:
        codes = torch.arange(probs.shape[-1], device=probs.device)
        return self.paint(expected(probs.squeeze(-2), signs_of(codes, self.bits).to(probs.dtype)))

    def paint(self, signs: Tensor) -> Tensor:
        """Signs, or what is expected of them, [B, L, bits] to images [B, 3, H, W]."""
        planes = signs.transpose(1, 2).unflatten(-1, (self.side, self.side))
        return self.decoder(planes.to(self.decoder.conv_in.weight.dtype))
