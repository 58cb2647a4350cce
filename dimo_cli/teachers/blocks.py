"""What the networks of the embedded teachers are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.teachers.protocol import Backbone, Cond, LastLinear


class Block(nn.Module):
    """A pre-norm transformer block with full bidirectional attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, S, D] to [B, S, D]."""
        B, S, D = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(B, S, 3, self.heads, D // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, S, D)
        x = x + self.out(attended)
        return x + self.down(F.gelu(self.up(self.norm_mlp(x)), approximate="tanh"))


class EmbeddedBackbone(Backbone):
    """A small transformer over one embedding table, whose row behind the codes is the mask.

    A subclass makes the parts, and says how tokens and condition become one sequence.
    """

    takes_latent = True
    token_embedding: nn.Embedding
    blocks: nn.ModuleList
    norm: nn.LayerNorm
    to_logits: nn.Linear

    def embed(self, tokens: Tensor) -> Tensor:
        return self.token_embedding(tokens.squeeze(-1))

    def embed_probs(self, probs: Tensor, mask: Tensor | None = None) -> Tensor:
        codes = self.to_logits.out_features
        embeds = probs.squeeze(-2) @ self.token_embedding.weight[:codes]
        if mask is None:
            return embeds
        return torch.where(mask, self.token_embedding.weight[codes], embeds)

    def through_blocks(
        self, x: Tensor, length: int, taps: Sequence[int]
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """What `hidden` returns, for a sequence [B, S, D] whose first `length` are image tokens."""
        tapped = []
        for index, block in enumerate(self.blocks):
            x = self.run_block(block, x)
            if index in taps:
                tapped.append(x[:, :length])
        x = self.norm(x[:, :length])
        return (x, tapped) if taps else x

    def head(self, hidden: Tensor, positions: Tensor | None = None) -> Tensor:
        return self.to_logits(hidden)[..., None, :]

    def last_linear(self, hidden: Tensor) -> LastLinear:
        return LastLinear(hidden, self.to_logits.weight, self.to_logits.bias)

    def embedding_parameters(self) -> list[nn.Parameter]:
        return list(self.token_embedding.parameters())


class TextBackbone(EmbeddedBackbone):
    """Image tokens of a square grid first, then states of a text, as one sequence."""

    def __init__(self, codes: int, grid: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(codes + 1, width)
        self.row = nn.Parameter(0.02 * torch.randn(grid, 1, width))
        self.column = nn.Parameter(0.02 * torch.randn(1, grid, width))
        self.text = nn.Linear(width, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.to_logits = nn.Linear(width, codes)

    def placed(self, embeds: Tensor, cond: Cond) -> Tensor:
        """Embedded tokens [B, L, D] that know where they are."""
        return embeds + (self.row + self.column).flatten(0, 1)

    def hidden(
        self, embeds: Tensor, cond: Cond, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        image = self.placed(embeds, cond)
        x = torch.cat([image, self.text(cond.tensors["text"])], dim=1)
        return self.through_blocks(self.with_latent(x, cond), image.shape[1], taps)
