"""The tokenizer of TiTok: an image as a short sequence of codes that have no place in the plane.

The decoder predicts, for every cell of a grid, a distribution over the codes of another tokenizer;
the expectation of their vectors goes through that tokenizer's pixel decoder. Shapes: B batch, L
latent tokens, N codes, C size of a code, K codes of the grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.teachers.expectation import expected
from dimo_cli.teachers.maskgen.vit import ViTDecoder, ViTEncoder
from dimo_cli.teachers.protocol import Cond, Tokenizer
from dimo_cli.teachers.titok.architecture import Architecture
from dimo_cli.teachers.titok.pixel_decoder import PixelDecoder


class Codebook(nn.Module):
    """A table of code vectors."""

    def __init__(self, codes: int, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, size)


class GridDecoder(ViTDecoder):
    """Latent tokens to logits over the codes of the grid."""

    def __init__(self, arch: Architecture) -> None:
        size = arch.vit_dec_model_size
        super().__init__(
            arch.crop_size,
            arch.vit_dec_patch_size,
            size,
            arch.num_latent_tokens,
            arch.token_size,
        )
        self.ffn = nn.Sequential(
            nn.Conv2d(size.width, 2 * size.width, 1),
            nn.Tanh(),
            nn.Conv2d(2 * size.width, arch.pixel_decoder.num_embeddings, 1),
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents [B, L, C] to logits [B, K, h, w]."""
        return self.ffn(self.features(latents))


class TiTokTokenizer(Tokenizer):
    """Codes are directions: latents and codebook rows are compared and decoded at unit length."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        size, pixels = arch.vit_enc_model_size, arch.pixel_decoder
        self.encoder = ViTEncoder(
            arch.crop_size,
            arch.vit_enc_patch_size,
            size,
            arch.num_latent_tokens,
            arch.token_size,
            legacy=True,
        )
        self.latent_tokens = nn.Parameter(
            size.width**-0.5 * torch.randn(arch.num_latent_tokens, size.width)
        )
        self.quantize = Codebook(arch.codebook_size, arch.token_size)
        self.decoder = GridDecoder(arch)
        self.pixel_quantize = Codebook(pixels.num_embeddings, pixels.z_channels)
        self.pixel_decoder = PixelDecoder(pixels)

    @property
    def codes(self) -> Tensor:
        """Codebook rows [N, C] at unit length: what the decoder was trained on."""
        return F.normalize(self.quantize.embedding.weight, dim=-1)

    def encode(self, images: Tensor) -> Tensor:
        latents = F.normalize(self.encoder((images + 1) / 2, self.latent_tokens), dim=-1)
        return torch.cdist(latents, self.codes).argmin(-1, keepdim=True)

    def decode(self, tokens: Tensor, cond: Cond | None = None) -> Tensor:
        return self.paint(self.codes[tokens.squeeze(-1)])

    def decode_probs(self, probs: Tensor, cond: Cond | None = None) -> Tensor:
        return self.paint(expected(probs.squeeze(-2), self.codes))

    def paint(self, latents: Tensor) -> Tensor:
        """Map latents [B, L, C] to images in [-1, 1], not clamped."""
        probs = self.decoder(latents).softmax(1)
        grid = torch.einsum("bkhw,kc->bchw", probs, self.pixel_quantize.embedding.weight)
        return 2 * self.pixel_decoder(grid) - 1
