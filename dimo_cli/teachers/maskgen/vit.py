"""The plain vision transformers of the 1-D tokenizers: a picture as a few latent tokens, and back.

The tokenizers of this line share their blocks, their encoder and the trunk of their decoder; they
differ in what comes after the trunk. Shapes: B batch, L latent tokens, S sequence, D width, C size
of a latent token.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dimo_cli.specs.base import Int, Spec


class ViTSize(Spec):
    """How large a transformer is."""

    width: Int = Field(gt=0, description="Width of a token")
    layers: Int = Field(gt=0, description="Number of blocks")
    heads: Int = Field(gt=0, description="Heads of the attention; they share the width evenly")

    @model_validator(mode="after")
    def _divisible(self) -> ViTSize:
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        return self


SIZES = {
    "small": ViTSize(width=512, layers=8, heads=8),
    "base": ViTSize(width=768, layers=12, heads=12),
    "large": ViTSize(width=1024, layers=24, heads=16),
}


def _by_name(value: Any) -> Any:
    """Published sizes go by name; any other is given by its numbers."""
    if not isinstance(value, str):
        return value
    if value not in SIZES:
        raise ValueError(f"must be {', '.join(SIZES)}, or numbers for width, layers and heads")
    return SIZES[value]


NamedSize = Annotated[ViTSize, BeforeValidator(_by_name)]


class Attention(nn.Module):
    """Full self-attention with q, k and v packed in one matrix, in that order."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(width**-0.5 * torch.randn(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, S, D] to [B, S, D]."""
        packed = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = packed.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Four times the width and back, with the exact GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        return self.c_proj(F.gelu(self.c_fc(x)))


class ViTBlock(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, S, D] to [B, S, D]."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class ViT(nn.Module):
    """What encoder and decoder share: a class token, one token per patch, and latent tokens."""

    def __init__(self, image_size: int, patch: int, size: ViTSize, latents: int) -> None:
        super().__init__()
        width = size.width
        self.side = image_size // patch
        self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(1, width))
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(1 + self.side**2, width))
        self.latent_token_positional_embedding = nn.Parameter(
            width**-0.5 * torch.randn(latents, width)
        )
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = nn.ModuleList(ViTBlock(width, size.heads) for _ in range(size.layers))
        self.ln_post = nn.LayerNorm(width)

    def place(self, patches: Tensor) -> Tensor:
        """Put the class token before patches [B, P, D] and add the positions of the plane."""
        class_token = self.class_embedding.expand(patches.shape[0], 1, -1)
        return torch.cat([class_token, patches], dim=1) + self.positional_embedding

    def transform(self, x: Tensor) -> Tensor:
        """Run a whole sequence [B, S, D] through the blocks; the last norm is not applied.

        These networks are frozen, so gradients only ever pass through to what came in; activations
        are then recomputed, for there are hundreds of tokens more than in a generator.
        """
        x = self.ln_pre(x)
        for block in self.transformer:
            x = checkpoint(block, x, use_reentrant=False) if x.requires_grad else block(x)
        return x


class ViTEncoder(ViT):
    """Pictures to latent tokens: those that were appended to the patches are what is read out."""

    def __init__(
        self,
        image_size: int,
        patch: int,
        size: ViTSize,
        latents: int,
        token_size: int,
        legacy: bool = False,
    ) -> None:
        super().__init__(image_size, patch, size, latents)
        self.legacy = legacy
        self.patch_embed = nn.Conv2d(3, size.width, patch, stride=patch)
        self.conv_out = nn.Conv2d(size.width, token_size, 1)

    def forward(self, images: Tensor, latent_tokens: Tensor) -> Tensor:
        """Map images [B, 3, H, W] in [0, 1], with learned latents [L, D], to [B, L, C]."""
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        latents = (latent_tokens + self.latent_token_positional_embedding).expand(
            len(images), -1, -1
        )
        x = self.transform(torch.cat([self.place(patches), latents], dim=1))
        x = self.ln_post(x[:, -latents.shape[1] :])
        if self.legacy:
            # The first tokenizers were trained with width and tokens in each other's memory order.
            x = x.reshape(len(x), x.shape[2], x.shape[1], 1)
        else:
            x = x.transpose(1, 2)[..., None]
        return self.conv_out(x).flatten(2).transpose(1, 2)


class ViTDecoder(ViT):
    """The trunk of a decoder: latent tokens to one feature vector per patch of the picture."""

    def __init__(
        self, image_size: int, patch: int, size: ViTSize, latents: int, token_size: int
    ) -> None:
        super().__init__(image_size, patch, size, latents)
        self.mask_token = nn.Parameter(size.width**-0.5 * torch.randn(1, 1, size.width))
        self.decoder_embed = nn.Linear(token_size, size.width)

    def features(self, latents: Tensor, context: Tensor | None = None) -> Tensor:
        """Map latents [B, L, C], and further tokens [B, T, D] after them, to [B, D, h, w]."""
        patches = self.mask_token.expand(latents.shape[0], self.side**2, -1)
        tokens = self.decoder_embed(latents) + self.latent_token_positional_embedding
        parts = [self.place(patches), tokens] + ([] if context is None else [context])
        x = self.transform(torch.cat(parts, dim=1))[:, 1 : 1 + self.side**2]
        return self.ln_post(x).transpose(1, 2).unflatten(2, (self.side, self.side))
