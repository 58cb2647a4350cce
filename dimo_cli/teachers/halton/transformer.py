"""The transformer of Halton-MaskGIT: the class comes in through the norms, and a register is last.

Attributes are named so that the keys of `state_dict()` are those of the published files, but for
the head: its matrix is the token table, and its bias is `bias` here, because `head` is a method.
Shapes: B batch, L image tokens, S = L + 1 with the register, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.teachers.halton.architecture import Architecture
from dimo_cli.teachers.protocol import Backbone, Cond, LastLinear

EPS = 1e-5


class BiasedNorm(nn.RMSNorm):
    """RMS norm with a bias beside its weight."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPS)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        return super().forward(x) + self.bias


class Attention(nn.Module):
    """Full attention; queries and keys are normed over all heads together, before they are split.

    A head is as wide as the width divided by the heads, rounded down: all of them may be narrower.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        width, inner = arch.hidden_dim, arch.attention_width
        self.heads, self.dropout = arch.heads, arch.dropout
        self.wq, self.wk, self.wv = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.q_norm, self.k_norm = (
            nn.RMSNorm(inner, eps=EPS, elementwise_affine=False) for _ in range(2)
        )
        self.wo = nn.Linear(inner, width, bias=False)
        self.drop = nn.Dropout(arch.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, S, D] to [B, S, D]."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.q_norm(self.wq(x)), self.k_norm(self.wk(x)), self.wv(x))
        )
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.drop(self.wo(attended.transpose(1, 2).flatten(2)))


class FeedForward(nn.Module):
    """W2 (SiLU(W1 x) W3 x)."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.w1 = nn.Linear(arch.hidden_dim, arch.ff_dim, bias=False)
        self.w2 = nn.Linear(arch.ff_dim, arch.hidden_dim, bias=False)
        self.w3 = nn.Linear(arch.hidden_dim, arch.ff_dim, bias=False)
        self.drop = nn.Dropout(arch.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        return self.w2(self.drop(F.silu(self.w1(x)) * self.w3(x)))


def modulation(width: int, parts: int) -> nn.Sequential:
    """What turns a class vector [B, D] into shifts, scales and gates [B, parts D]."""
    return nn.Sequential(nn.SiLU(), nn.Linear(width, parts * width))


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normed x [B, S, D], scaled and shifted as the class [B, 1, D] has it."""
    return x * (1 + scale) + shift


class Block(nn.Module):
    """Attention, then MLP; the class says how each is entered and how much of it is added."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        width = arch.hidden_dim
        self.mlp = modulation(width, 6)
        self.ln1 = nn.RMSNorm(width, eps=EPS)
        self.attn = Attention(arch)
        self.ln2 = nn.RMSNorm(width, eps=EPS)
        self.ff = FeedForward(arch)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Map [B, S, D] to [B, S, D], given class vectors [B, D]."""
        # The published code calls the first of three "gamma"; it is the shift.
        shift, scale, gate, ff_shift, ff_scale, ff_gate = self.mlp(label)[:, None].chunk(6, dim=-1)
        x = x + gate * self.attn(modulated(self.ln1(x), shift, scale))
        return x + ff_gate * self.ff(modulated(self.ln2(x), ff_shift, ff_scale))


class LastNorm(nn.Module):
    """The norm after the blocks, with a modulation of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_final = BiasedNorm(width)
        self.mlp = modulation(width, 2)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Map [B, L, D] to [B, L, D], given class vectors [B, D]."""
        shift, scale = self.mlp(label)[:, None].chunk(2, dim=-1)
        return modulated(self.norm_final(x), shift, scale)


class HaltonTransformer(Backbone):
    """Image tokens to logits over the image codes and the mask id.

    Classes have a table of their own, whose last row is no class. Conditions are `label` [B].
    """

    # Its blocks call the modulation by the class `mlp`.
    lora_targets: ClassVar[Mapping[str, str]] = {
        **Backbone.lora_targets,
        "mlp": r".+\.ff\.w\d",
    }

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        width, self.mask_id = arch.hidden_dim, arch.codebook_size
        self.cls_emb = nn.Embedding(arch.nclass + 1, width)
        self.tok_emb = nn.Embedding(arch.codebook_size + 1, width)
        self.pos_emb = nn.Embedding(arch.length, width)
        self.reg_tokens = nn.Embedding(1, width)
        blocks = nn.ModuleList(Block(arch) for _ in range(arch.depth))
        self.transformer = nn.ModuleDict({"layers": blocks})
        self.last_norm = LastNorm(width)
        self.bias = nn.Parameter(torch.zeros(arch.codebook_size + 1))

    def embed(self, tokens: Tensor) -> Tensor:
        return self.tok_emb(tokens.squeeze(-1))

    def embed_probs(self, probs: Tensor, mask: Tensor | None = None) -> Tensor:
        embeds = probs.squeeze(-2) @ self.tok_emb.weight
        if mask is None:
            return embeds
        return torch.where(mask, self.tok_emb.weight[self.mask_id], embeds)

    def hidden(
        self, embeds: Tensor, cond: Cond, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        label = self.cls_emb(cond.tensors["label"])
        register = self.reg_tokens.weight.expand(embeds.shape[0], 1, -1)  # it has no position
        x = torch.cat([embeds + self.pos_emb.weight, register], dim=1)
        tapped = []
        for index, block in enumerate(self.transformer["layers"].children()):
            x = self.run_block(block, x, label)
            if index in taps:
                tapped.append(x[:, :-1])
        x = self.last_norm(x[:, :-1], label)
        return (x, tapped) if taps else x

    def head(self, hidden: Tensor, positions: Tensor | None = None) -> Tensor:
        return F.linear(hidden, self.tok_emb.weight, self.bias)[..., None, :]

    def last_linear(self, hidden: Tensor) -> LastLinear:
        return LastLinear(hidden, self.tok_emb.weight, self.bias)

    def embedding_parameters(self) -> list[nn.Parameter]:
        # The output is tied to the table; its bias is frozen along with it.
        tables = (self.tok_emb, self.pos_emb, self.reg_tokens)
        return [*(weight for table in tables for weight in table.parameters()), self.bias]
