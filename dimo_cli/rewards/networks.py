"""Networks that several rewards share: the vision transformer and the affine head."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.rewards.protocol import Checkpointed
from dimo_cli.specs.base import Int, Real, Spec

HEAD_WIDTHS = (1024, 128, 64, 16)


class VisionSizes(Spec):
    """The vision transformer, in the words of transformers' configs; defaults are CLIP's H-14."""

    image_size: Int = 224
    patch_size: Int = 14
    hidden_size: Int = 1280
    intermediate_size: Int = 5120
    num_hidden_layers: Int = 32
    num_attention_heads: Int = 16
    hidden_act: Literal["gelu", "quick_gelu"] = "gelu"
    layer_norm_eps: Real = 1e-5


class Attention(nn.Module):
    """Self-attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        qkv = self.qkv(hidden).unflatten(-1, (3, self.heads, -1)).transpose(1, 3)
        mixed = F.scaled_dot_product_attention(*qkv.unbind(2))
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two layers; the activation is the exact GELU, or the approximation OpenAI trained with."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        self.is_quick = sizes.hidden_act == "quick_gelu"
        self.fc1 = nn.Linear(sizes.hidden_size, sizes.intermediate_size)
        self.fc2 = nn.Linear(sizes.intermediate_size, sizes.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        wide = self.fc1(hidden)
        return self.fc2(wide * torch.sigmoid(1.702 * wide) if self.is_quick else F.gelu(wide))


class Block(nn.Module):
    """One pre-norm layer."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        width, eps = sizes.hidden_size, sizes.layer_norm_eps
        self.norm1 = nn.LayerNorm(width, eps)
        self.attn = Attention(width, sizes.num_attention_heads)
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = Mlp(sizes)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        hidden = hidden + self.attn(self.norm1(hidden))
        return hidden + self.mlp(self.norm2(hidden))


class VisionTransformer(Checkpointed):
    """Images to the normalized states of all tokens, the class token first.

    CLIP's kind has a norm before its first layer and no bias in its patch embedding.
    """

    def __init__(self, sizes: VisionSizes, is_clip: bool = False) -> None:
        super().__init__()
        width, patch, eps = sizes.hidden_size, sizes.patch_size, sizes.layer_norm_eps
        tokens = (sizes.image_size // patch) ** 2 + 1
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))
        proj = nn.Conv2d(3, width, patch, stride=patch, bias=not is_clip)
        self.patch_embed = nn.Sequential(OrderedDict(proj=proj))
        self.norm_pre = nn.LayerNorm(width, eps) if is_clip else nn.Identity()
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.num_hidden_layers))
        self.norm = nn.LayerNorm(width, eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalized images [B, 3, S, S] to [B, 1 + patches, D]."""
        patches = self.patch_embed(pixels).flatten(2).transpose(1, 2)
        first = self.cls_token.expand(len(pixels), -1, -1)
        hidden = self.norm_pre(torch.cat([first, patches], 1) + self.pos_embed)
        for block in self.blocks:
            hidden = self.run_block(block, hidden)
        return self.norm(hidden)


class AffineHead(nn.Module):
    """Five linear layers with nothing between them but the dropout of their training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide, middle, narrow, last = HEAD_WIDTHS
        # Files number the layers with the dropout counted, so its places are kept.
        self.layers = nn.Sequential(
            nn.Linear(width, wide),
            nn.Identity(),
            nn.Linear(wide, middle),
            nn.Identity(),
            nn.Linear(middle, narrow),
            nn.Identity(),
            nn.Linear(narrow, last),
            nn.Linear(last, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """[B, D] to [B]."""
        return self.layers(features).squeeze(-1)
