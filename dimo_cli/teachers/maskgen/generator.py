"""The generator of MaskGen-VQ: a transformer over two streams, image tokens and text, as in SD3.

Attribute names are the published state dict's. Shapes: B batch, L image tokens, T text tokens,
S = L + T, D width, V codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.teachers.maskgen.architecture import Architecture
from dimo_cli.teachers.protocol import Backbone, Cond, LastLinear

SCORE_PERIOD = 1000.0
SCORE_FACTOR = 100.0


def score_features(scores: Tensor, size: int) -> Tensor:
    """Aesthetic scores [B] as sines, then cosines, of falling frequencies: [B, size]."""
    half = size // 2
    index = torch.arange(half, dtype=torch.float32, device=scores.device)
    # Angles are hundreds of radians, so the order of rounding shows in the fifth digit.
    frequencies = torch.exp(-math.log(SCORE_PERIOD) * index / half)
    angles = SCORE_FACTOR * scores.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def normalize(x: Tensor) -> Tensor:
    """Layer norm without weights: what modulates is predicted from the condition."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class Modulation(nn.Module):
    """Predicts `parts` vectors of the width from the condition vector [B, 1, D]."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """Map [B, 1, D] to `parts` tensors of that shape."""
        return self.linear(F.silu(condition)).chunk(self.parts, dim=-1)


class Widen(nn.Module):
    """Four times the width, then tanh-GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., 4 D]."""
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """The MLP of either stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # The published numbering counts a dropout, of rate zero, between the two layers.
        self.net = nn.Sequential(Widen(width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        return self.net(x)


class JointAttention(nn.Module):
    """Each stream has its own projections; all tokens attend to all, image first, then text."""

    def __init__(self, width: int, heads: int, text_goes_on: bool) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        # The last block publishes a text query too, though nothing reads what it would find.
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (
            nn.Linear(width, width) for _ in range(3)
        )
        self.to_out = nn.Sequential(nn.Linear(width, width))
        self.to_add_out = nn.Linear(width, width) if text_goes_on else None

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map [B, L, D] and [B, T, D] to the same shapes; no text where it ends here."""
        q = self.to_q(image)
        if self.to_add_out is not None:
            q = torch.cat([q, self.add_q_proj(text)], dim=1)
        k = torch.cat([self.to_k(image), self.add_k_proj(text)], dim=1)
        v = torch.cat([self.to_v(image), self.add_v_proj(text)], dim=1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        length = image.shape[1]
        out = self.to_out(attended[:, :length])
        return out, None if self.to_add_out is None else self.to_add_out(attended[:, length:])


class JointBlock(nn.Module):
    """A block over both streams; in the last one text is only looked at."""

    def __init__(self, width: int, heads: int, text_goes_on: bool) -> None:
        super().__init__()
        self.text_goes_on = text_goes_on
        self.norm1 = Modulation(width, 6)
        self.norm1_context = Modulation(width, 6 if text_goes_on else 2)
        self.attn = JointAttention(width, heads, text_goes_on)
        self.ff = FeedForward(width)
        self.ff_context = FeedForward(width) if text_goes_on else None

    def forward(self, image: Tensor, text: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, L, D] and [B, T, D] to the same shapes."""
        image_parts, text_parts = self.norm1(condition), self.norm1_context(condition)
        # The order of shift and scale is the other way round where there is no gate.
        text_shift, text_scale = text_parts[:2] if self.text_goes_on else text_parts[::-1]
        image_found, text_found = self.attn(
            modulate(image, *image_parts[:2]), modulate(text, text_shift, text_scale)
        )
        image = add_branches(image, image_found, self.ff, *image_parts[2:])
        if self.ff_context is not None:
            text = add_branches(text, text_found, self.ff_context, *text_parts[2:])
        return image, text


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LN(x) (1 + scale) + shift."""
    return normalize(x) * (1 + scale) + shift


def add_branches(
    x: Tensor,
    found: Tensor,
    mlp: nn.Module,
    gate: Tensor,
    shift: Tensor,
    scale: Tensor,
    end: Tensor,
) -> Tensor:
    """Add what attention found, then the MLP's branch, each through its gate."""
    x = x + gate * found
    return x + end * mlp(modulate(x, shift, scale))


class MaskGenBackbone(Backbone):
    """MaskGen-VQ. The token embedding is the output layer as well, so both are one parameter.

    Conditions: `text` [B, T, E] and `pooled` [B, E] of the prompt, and an `aesthetic` score [B].
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        width, depth = arch.decoder_embed_dim, arch.decoder_depth
        self.codes, self.mask_id = arch.codebook_size, arch.codebook_size
        self.score_size = arch.micro_condition_embed_dim
        self.embeddings = nn.Embedding(arch.embedding_rows, width)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, arch.num_latent_tokens, width))
        self.text_embed_proj = nn.Linear(arch.text_embed_dim, width)
        self.cond_pooled_proj = nn.Linear(arch.text_embed_dim + self.score_size, width)
        self.blocks = nn.ModuleList(
            JointBlock(width, arch.decoder_num_heads, text_goes_on=index < depth - 1)
            for index in range(depth)
        )
        self.norm = Modulation(width, 2)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.embeddings(tokens.squeeze(-1))

    def embed_probs(self, probs: Tensor, mask: Tensor | None = None) -> Tensor:
        embeds = probs.squeeze(-2) @ self.embeddings.weight[: self.codes]
        if mask is None:
            return embeds
        return torch.where(mask, self.embeddings.weight[self.mask_id], embeds)

    def hidden(
        self, embeds: Tensor, cond: Cond, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        image = embeds + self.pos_embed
        text = self.text_embed_proj(cond.tensors["text"])
        condition = self.condition(cond)
        tapped = []
        for index, block in enumerate(self.blocks):
            image, text = self.run_block(block, image, text, condition)
            if index in taps:
                tapped.append(image)
        scale, shift = self.norm(condition)
        image = modulate(image, shift, scale)
        return (image, tapped) if taps else image

    def condition(self, cond: Cond) -> Tensor:
        """The vector [B, 1, D] that modulates every block: pooled text and aesthetic score."""
        score = score_features(cond.tensors["aesthetic"], self.score_size)
        return self.cond_pooled_proj(torch.cat([cond.tensors["pooled"], score], dim=-1))[:, None]

    def head(self, hidden: Tensor, positions: Tensor | None = None) -> Tensor:
        return (hidden @ self.embeddings.weight[: self.codes].T)[..., None, :]

    def last_linear(self, hidden: Tensor) -> LastLinear:
        return LastLinear(hidden, self.embeddings.weight[: self.codes])

    def embedding_parameters(self) -> list[nn.Parameter]:
        return list(self.embeddings.parameters())
