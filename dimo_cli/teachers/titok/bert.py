"""The generator of TiTok B-64 and L-32: a BERT, with norms after each branch.

Names of modules are those of the published files.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.hub.published import StateDict
from dimo_cli.teachers.protocol import Cond
from dimo_cli.teachers.titok.architecture import Architecture
from dimo_cli.teachers.titok.generator import TiTokGenerator, attend, table_rows

NORM_EPS = 1e-12


class Embeddings(nn.Module):
    """Words, positions (class first) and token types, of which only the first is ever used."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        width = arch.hidden_size
        self.word_embeddings = nn.Embedding(table_rows(arch), width)
        self.position_embeddings = nn.Embedding(arch.num_latent_tokens + 1, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, NORM_EPS)
        self.dropout = nn.Dropout(arch.dropout)

    def forward(self, words: Tensor) -> Tensor:
        """Complete word embeddings [B, 1 + L, D]."""
        placed = words + self.position_embeddings.weight + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(placed))


class BranchEnd(nn.Module):
    """The end of every branch: project, add the branch's input, normalize."""

    def __init__(self, inner: int, arch: Architecture) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, arch.hidden_size)
        self.LayerNorm = nn.LayerNorm(arch.hidden_size, NORM_EPS)
        self.dropout = nn.Dropout(arch.dropout)

    def forward(self, inner: Tensor, x: Tensor) -> Tensor:
        """Join the branch [B, S, inner] to its input [B, S, D]."""
        return self.LayerNorm(x + self.dropout(self.dense(inner)))


class SelfAttention(nn.Module):
    """Full attention with biases, before the output projection."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.heads, self.drop = arch.num_attention_heads, arch.attn_drop
        self.query = nn.Linear(arch.hidden_size, arch.hidden_size)
        self.key = nn.Linear(arch.hidden_size, arch.hidden_size)
        self.value = nn.Linear(arch.hidden_size, arch.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, S, D] to [B, S, D]."""
        dropout = self.drop if self.training else 0.0
        return attend(self.query(x), self.key(x), self.value(x), self.heads, dropout)


class Layer(nn.Module):
    """A post-norm transformer block with the exact GELU."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {"self": SelfAttention(arch), "output": BranchEnd(arch.hidden_size, arch)}
        )
        self.intermediate = nn.ModuleDict(
            {"dense": nn.Linear(arch.hidden_size, arch.intermediate_size)}
        )
        self.output = BranchEnd(arch.intermediate_size, arch)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, S, D] to [B, S, D]."""
        x = self.attention["output"](self.attention["self"](x), x)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class Encoder(nn.Module):
    """The blocks."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(arch) for _ in range(arch.num_hidden_layers))


class BertModel(nn.Module):
    """All weights, under the one name that the published files put in front."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.embeddings = Embeddings(arch)
        self.encoder = Encoder(arch)
        self.lm_head = nn.Linear(arch.hidden_size, arch.codebook_size)


class BertGenerator(TiTokGenerator):
    """Class and image tokens through a BERT; the output of the class token is not used."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__(arch)
        self.model = BertModel(arch)

    @property
    def table(self) -> nn.Embedding:
        return self.model.embeddings.word_embeddings

    @property
    def to_logits(self) -> nn.Linear:
        return self.model.lm_head

    def hidden(
        self, embeds: Tensor, cond: Cond, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        x = self.model.embeddings(self.with_class(embeds, cond))
        tapped = []
        for index, layer in enumerate(self.model.encoder.layer):
            x = self.run_block(layer, x)
            if index in taps:
                tapped.append(x[:, 1:])
        return (x[:, 1:], tapped) if taps else x[:, 1:]


def convert_bert(weights: StateDict) -> StateDict:
    """Drop 0, 1, 2, ..., which some versions of the library that trained it store with a BERT."""
    return {name: w for name, w in weights.items() if name != "model.embeddings.position_ids"}
