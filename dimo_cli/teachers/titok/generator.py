"""What the two generators of TiTok share: one table for codes, mask and classes, and a class first.

Shapes: B batch, L latent tokens, N codes, V = N logits, D width.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.teachers.protocol import Backbone, Cond, LastLinear
from dimo_cli.teachers.titok.architecture import Architecture


class TiTokGenerator(Backbone):
    """Rows of the embedding table: codes 0 to N - 1, the mask N, classes from N + 1, no class last.

    Only the word embedding is made in `embed`; positions and norms follow in `hidden`.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.codes = arch.codebook_size
        self.mask_id = arch.codebook_size
        self.first_class_id = arch.codebook_size + 1

    @property
    @abstractmethod
    def table(self) -> nn.Embedding:
        """The embedding table."""

    @property
    @abstractmethod
    def to_logits(self) -> nn.Linear:
        """The output layer, which is not tied to the table."""

    def embed(self, tokens: Tensor) -> Tensor:
        return self.table(tokens.squeeze(-1))

    def embed_probs(self, probs: Tensor, mask: Tensor | None = None) -> Tensor:
        embeds = probs.squeeze(-2) @ self.table.weight[: self.codes]
        if mask is None:
            return embeds
        return torch.where(mask, self.table.weight[self.mask_id], embeds)

    def with_class(self, embeds: Tensor, cond: Cond) -> Tensor:
        """Put the class token before embeddings [B, L, D]: it has the first position."""
        class_token = self.table(self.first_class_id + cond.tensors["label"])
        return torch.cat([class_token[:, None], embeds], dim=1)

    def head(self, hidden: Tensor, positions: Tensor | None = None) -> Tensor:
        return self.to_logits(hidden)[..., None, :]

    def last_linear(self, hidden: Tensor) -> LastLinear:
        return LastLinear(hidden, self.to_logits.weight, self.to_logits.bias)

    def embedding_parameters(self) -> list[nn.Parameter]:
        return list(self.table.parameters())


def table_rows(arch: Architecture) -> int:
    """Codes, mask, classes and no class."""
    return arch.codebook_size + 1 + arch.condition_num_classes + 1


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, dropout: float = 0.0) -> Tensor:
    """Full attention of q, k and v [B, S, D] over heads; returns [B, S, D]."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    return attended.transpose(1, 2).flatten(2)
