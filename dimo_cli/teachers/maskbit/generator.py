"""The generator of MaskBit: a post-norm transformer that reads tokens as bits.

Attribute names give the published keys. Positions of the sequence are the tokens, row by row, and
the class token behind them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.teachers.maskbit.architecture import Architecture
from dimo_cli.teachers.maskbit.bits import expected_signs, signs_of
from dimo_cli.teachers.protocol import Backbone, Cond, LastLinear

EPS = 1e-12


class Attention(nn.Module):
    """Full bidirectional attention with one packed projection to queries, keys and values."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * width, width)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, S, D] to [B, S, D]."""
        packed = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = packed.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class AttentionPart(nn.Module):
    """LN(x + Drop(attention(x)))."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.mha = Attention(width, heads, dropout)
        self.drop = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, S, D] to [B, S, D]."""
        return self.norm(x + self.drop(self.mha(x)))


class FeedForwardPart(nn.Module):
    """LN(x + Drop(W2 GELU(W1 x)))."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width), nn.Dropout(dropout)
        )
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, S, D] to [B, S, D]."""
        return self.norm(x + self.net(x))


class Transformer(nn.Module):
    """The blocks, each an attention part and a feed-forward part."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                AttentionPart(arch.hidden_dim, arch.heads, arch.dropout),
                FeedForwardPart(arch.hidden_dim, arch.mlp_dim, arch.dropout),
            )
            for _ in range(arch.depth)
        )


class MaskBitGenerator(Backbone):
    """Tokens [B, L, G] as sign bits through one linear map; a masked group's bits are zero.

    Input projection and output matrix are not tied, and there is no table of token embeddings.
    """

    takes_latent = True

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        width = arch.hidden_dim
        self.groups, self.group_bits = arch.codebook_splits, arch.group_bits
        self.mask_id = arch.group_codes
        self.pos_emb = nn.Parameter(0.02 * torch.randn(1, arch.side**2 + 1, width))
        # A constant of the published files; the bits themselves are computed.
        self.register_buffer("bits_to_indices", 2 ** torch.arange(arch.group_bits).int())
        self.class_emb = nn.Embedding(arch.nclass + 1, width)
        self.input_proj = nn.Linear(arch.bits, width)
        self.first_layer = nn.Sequential(nn.LayerNorm(width, eps=EPS), nn.Dropout(arch.dropout))
        self.transformer = Transformer(arch)
        self.last_layer = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=EPS)
        )
        self.prediction_layer = nn.Linear(width, self.groups * arch.group_codes)

    def embed(self, tokens: Tensor) -> Tensor:
        signs = signs_of(tokens, self.group_bits)
        return self._project(signs.masked_fill((tokens == self.mask_id)[..., None], 0))

    def embed_probs(self, probs: Tensor, mask: Tensor | None = None) -> Tensor:
        signs = expected_signs(probs, self.group_bits)
        return self._project(signs if mask is None else signs.masked_fill(mask[..., None], 0))

    def _project(self, signs: Tensor) -> Tensor:
        """Signs [B, L, G, bits] to [B, L, D]; the first group's bits are the token's lowest."""
        return self.input_proj(signs.flatten(-2).to(self.input_proj.weight.dtype))

    def hidden(
        self, embeds: Tensor, cond: Cond, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        class_token = self.class_emb(cond.tensors["label"])[:, None]
        x = torch.cat([embeds, class_token], dim=1) + self.pos_emb
        x = self.first_layer(self.with_latent(x, cond))
        image = slice(embeds.shape[1])
        tapped = []
        for index, block in enumerate(self.transformer.layers):
            x = self.run_block(block, x)
            if index in taps:
                tapped.append(x[:, image])
        return (x[:, image], tapped) if taps else x[:, image]

    def head(self, hidden: Tensor, positions: Tensor | None = None) -> Tensor:
        logits = self.prediction_layer(self.last_layer(hidden))
        return logits.unflatten(-1, (self.groups, -1))

    def last_linear(self, hidden: Tensor) -> LastLinear:
        last = self.prediction_layer
        return LastLinear(self.last_layer(hidden), last.weight, last.bias)

    def embedding_parameters(self) -> list[nn.Parameter]:
        return list(self.input_proj.parameters())
