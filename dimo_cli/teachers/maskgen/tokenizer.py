"""TA-TiTok: images of 256 pixels as 128 tokens, and back with the help of the prompt.

Attribute names are the published state dict's. Shapes: B batch, L tokens, T text tokens, V codes,
C size of a code's vector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dimo_cli.errors import SpecError
from dimo_cli.teachers.expectation import expected
from dimo_cli.teachers.maskgen.architecture import Architecture
from dimo_cli.teachers.maskgen.vit import ViTDecoder, ViTEncoder
from dimo_cli.teachers.protocol import Cond, Tokenizer


class Codebook(nn.Module):
    """One vector for each code; a latent becomes the code whose vector is nearest."""

    def __init__(self, codes: int, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, size)

    def nearest(self, latents: Tensor) -> Tensor:
        """Latents [B, L, C] to codes [B, L]; autocast leaves these distances in float32."""
        return torch.cdist(latents, self.embedding.weight).argmin(-1)


class TextAwareDecoder(ViTDecoder):
    """The trunk with text tokens in its sequence, and a head that paints each patch at once."""

    def __init__(self, arch: Architecture) -> None:
        size, patch = arch.vit_dec_model_size, arch.vit_dec_patch_size
        super().__init__(arch.crop_size, patch, size, arch.num_latent_tokens, arch.token_size)
        width = size.width
        self.patch = patch
        self.text_guidance_proj = nn.Linear(arch.text_embed_dim, width)
        self.text_guidance_positional_embedding = nn.Parameter(
            width**-0.5 * torch.randn(arch.text_context_length, width)
        )
        self.ffn = nn.Sequential(nn.Conv2d(width, 3 * patch**2, 1))
        self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, latents: Tensor, text: Tensor) -> Tensor:
        """Latents [B, L, C] and text states [B, T, E] to images [B, 3, H, W], about [0, 1]."""
        context = self.text_guidance_proj(text) + self.text_guidance_positional_embedding
        patches = self.ffn(self.features(latents, context))
        # Channels vary fastest within a patch: [B, p p 3, h, w] to [B, 3, h p, w p].
        pixels = patches.unflatten(1, (self.patch, self.patch, 3)).permute(0, 3, 4, 1, 5, 2)
        return self.conv_out(pixels.flatten(4, 5).flatten(2, 3))


class TATiTok(Tokenizer):
    """The VQ variant of TA-TiTok; decoding needs the condition of the prompt."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        size = arch.vit_enc_model_size
        self.latent_tokens = nn.Parameter(
            size.width**-0.5 * torch.randn(arch.num_latent_tokens, size.width)
        )
        self.encoder = ViTEncoder(
            arch.crop_size, arch.vit_enc_patch_size, size, arch.num_latent_tokens, arch.token_size
        )
        self.quantize = Codebook(arch.codebook_size, arch.token_size)
        self.decoder = TextAwareDecoder(arch)

    def latents(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] to latents [B, L, C], before any code is chosen."""
        return self.encoder((images + 1) / 2, self.latent_tokens)

    def encode(self, images: Tensor) -> Tensor:
        return self.quantize.nearest(self.latents(images))[..., None]

    def decode(self, tokens: Tensor, cond: Cond | None = None) -> Tensor:
        return self._paint(self.quantize.embedding(tokens.squeeze(-1)), cond)

    def decode_probs(self, probs: Tensor, cond: Cond | None = None) -> Tensor:
        return self._paint(expected(probs.squeeze(-2), self.quantize.embedding.weight), cond)

    def _paint(self, latents: Tensor, cond: Cond | None) -> Tensor:
        if cond is None:
            raise SpecError("The decoder of MaskGen reads the prompt, and none was given to it.")
        return 2 * self.decoder(latents, cond.tensors["decoder_text"]) - 1
