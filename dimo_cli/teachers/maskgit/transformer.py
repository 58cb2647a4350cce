"""MaskGit's transformer: one table for image codes, mask, classes and null, tied to the output.

The class token is appended after the image tokens; its output is not used. Attributes are named so
that the keys of `state_dict()` are those of the published file.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.teachers.maskgit.architecture import MaskGitArchitecture
from dimo_cli.teachers.protocol import Backbone, Cond, LastLinear

# The layers around the blocks were trained with another epsilon than the blocks' default of 1e-5.
OUTER_EPS = 1e-12


class SelfAttention(nn.Module):
    """Full bidirectional multi-head attention with queries, keys and values in one projection."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, S, D] to [B, S, D]; dropout acts on the attention weights alone."""
        B, S, D = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.view(B, S, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.out_proj(attended.transpose(1, 2).reshape(B, S, D))


class Residual(nn.Module):
    """x + fn(LN(x)), where `fn` holds one layer under its published name."""

    def __init__(self, width: int, name: str, layer: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fn = nn.Sequential(OrderedDict([(name, layer)]))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, S, D] to [B, S, D]."""
        return x + self.fn(self.norm(x))


def build_block(width: int, heads: int, mlp_dim: int, dropout: float) -> nn.Sequential:
    """A pre-norm block: attention, then MLP."""
    mlp = nn.Sequential(
        nn.Linear(width, mlp_dim),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(mlp_dim, width),
        nn.Dropout(dropout),
    )
    attention = SelfAttention(width, heads, dropout)
    return nn.Sequential(Residual(width, "mha", attention), Residual(width, "net", mlp))


def build_outer_layers(width: int, dropout: float) -> list[nn.Module]:
    """What the layers before and after the blocks have in common; neither is residual."""
    return [
        nn.LayerNorm(width, eps=OUTER_EPS),
        nn.Dropout(dropout),
        nn.Linear(width, width),
        nn.GELU(),
        nn.LayerNorm(width, eps=OUTER_EPS),
    ]


class MaskGitTransformer(Backbone):
    """Image tokens and one class token to logits over the image codes and the mask id."""

    takes_latent = True

    def __init__(self, settings: MaskGitArchitecture) -> None:
        super().__init__()
        width, dropout = settings.hidden_dim, settings.dropout
        table = settings.class_ids.stop + 1  # the null class is the last
        self.length, self.mask_id = settings.length, settings.mask_id
        self.vocab, self.first_class_id = settings.codebook_size + 1, settings.class_ids.start
        self.tok_emb = nn.Embedding(table, width)
        self.pos_emb = nn.Parameter(torch.empty(1, self.length + 1, width))
        self.first_layer = nn.Sequential(
            *build_outer_layers(width, dropout), nn.Dropout(dropout), nn.Linear(width, width)
        )
        blocks = (
            build_block(width, settings.heads, settings.mlp_dim, dropout)
            for _ in range(settings.depth)
        )
        self.transformer = nn.ModuleDict({"layers": nn.ModuleList(blocks)})
        self.last_layer = nn.Sequential(*build_outer_layers(width, dropout))
        self.bias = nn.Parameter(torch.zeros(self.length + 1, table))
        nn.init.trunc_normal_(self.pos_emb, std=0.02)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.tok_emb(tokens.squeeze(-1))

    def embed_probs(self, probs: Tensor, mask: Tensor | None = None) -> Tensor:
        embeds = probs.squeeze(-2) @ self.tok_emb.weight[: self.vocab]
        if mask is None:
            return embeds
        return torch.where(mask, self.tok_emb.weight[self.mask_id], embeds)

    def hidden(
        self, embeds: Tensor, cond: Cond, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        class_token = self.tok_emb(self.first_class_id + cond.tensors["label"])
        x = torch.cat([embeds, class_token[:, None]], dim=1) + self.pos_emb
        x = self.first_layer(self.with_latent(x, cond))
        tapped = []
        for index, block in enumerate(self.transformer["layers"].children()):
            x = self.run_block(block, x)
            if index in taps:
                tapped.append(x[:, : self.length])
        x = self.last_layer(x[:, : self.length])
        return (x, tapped) if taps else x

    def head(self, hidden: Tensor, positions: Tensor | None = None) -> Tensor:
        bias = self.bias[: self.length, : self.vocab]
        if positions is not None:
            bias = bias[positions]
        logits = F.linear(hidden, self.tok_emb.weight[: self.vocab]) + bias
        return logits[..., None, :]

    def last_linear(self, hidden: Tensor) -> LastLinear | None:
        if self.bias.requires_grad:  # one for each position: no bias of a linear map
            return None
        return LastLinear(hidden, self.tok_emb.weight[: self.vocab])

    def embedding_parameters(self) -> list[nn.Parameter]:
        # The output is tied to the table; its bias is frozen along with it.
        return [*self.tok_emb.parameters(), self.pos_emb, self.bias]
