"""The network of Lumina-DiMOO: LLaDA's, which sees prompt and image as one sequence of tokens.

It has no input for a time. Attention goes both ways.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.teachers.dimoo.architecture import Architecture
from dimo_cli.teachers.protocol import Backbone, Cond, LastLinear


class RMSNorm(nn.Module):
    """Unit mean square, found in float32, before the learned scale."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        exact = x.float()
        exact = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * exact.to(x.dtype)


def rotary_table(length: int, width: int, theta: float, device: torch.device) -> Tensor:
    """Cosines and sines [2, S, d] of every position, in float32, each angle in both halves."""
    halves = torch.arange(0, width, 2, device=device, dtype=torch.float32) / width
    positions = torch.arange(length, device=device, dtype=torch.float32)
    angles = positions[:, None] * (1.0 / theta**halves)
    angles = torch.cat([angles, angles], dim=-1)
    return torch.stack([angles.cos(), angles.sin()])


class Block(nn.Module):
    """Attention and a gated feed-forward part, each behind a norm; no linear map has a bias."""

    def __init__(self, width: int, heads: int, inner: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.attn_norm, self.ff_norm = RMSNorm(width, eps), RMSNorm(width, eps)
        self.q_proj, self.k_proj, self.v_proj, self.attn_out = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.ff_proj, self.up_proj = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.ff_out = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, rotary: Tensor, keys: Tensor) -> Tensor:
        """Map [B, S, D] to [B, S, D]; what is false in `keys` [B, S] is seen by nobody."""
        x = x + self.attention(self.attn_norm(x), rotary, keys)
        return x + self.mlp(self.ff_norm(x))

    def attention(self, x: Tensor, rotary: Tensor, keys: Tensor) -> Tensor:
        """What attention adds."""
        q, k = (rotated(self.by_head(proj(x)), rotary) for proj in (self.q_proj, self.k_proj))
        v, seen = self.by_head(self.v_proj(x)), keys[:, None, None, :]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return self.attn_out(attended.transpose(1, 2).flatten(2))

    def by_head(self, x: Tensor) -> Tensor:
        """Split [B, S, D] into heads [B, H, S, d]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def mlp(self, x: Tensor) -> Tensor:
        """What the feed-forward part adds."""
        return self.ff_out(F.silu(self.ff_proj(x)) * self.up_proj(x))


def rotated(x: Tensor, rotary: Tensor) -> Tensor:
    """Turn [B, H, S, d] by the angles of its positions, in float32."""
    first, second = x.float().chunk(2, dim=-1)
    cosines, sines = rotary
    turned = torch.cat([first, second], -1) * cosines + torch.cat([-second, first], -1) * sines
    return turned.to(x.dtype)


class DimooBackbone(Backbone):
    """Prompt, image and the marks around them as one sequence; only image codes are predicted.

    The condition is `text` [B, T]: the rows of a prompt in its template, behind as many -1 as it is
    shorter than T. Nobody sees those, and positions are relative, so that they change nothing.
    """

    def __init__(self, arch: Architecture, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid, self.codes, self.first_code = grid, arch.codes, arch.first_code
        self.mask_row, self.newline = arch.mask_token_id, arch.newline_token_id
        self.before = (arch.begin_answer_token_id, arch.begin_image_token_id)
        self.behind = (arch.end_image_token_id, arch.end_answer_token_id)
        self.head_width, self.theta = arch.d_model // arch.n_heads, arch.rope_theta
        self.wte = nn.Embedding(arch.rows, arch.d_model)
        sizes = (arch.d_model, arch.n_heads, arch.mlp_hidden_size, arch.rms_norm_eps)
        self.blocks = nn.ModuleList(Block(*sizes) for _ in range(arch.n_layers))
        self.ln_f = RMSNorm(arch.d_model, arch.rms_norm_eps)
        self.ff_out = nn.Linear(arch.d_model, arch.codes, bias=False)

    def embed(self, tokens: Tensor) -> Tensor:
        ids = tokens.squeeze(-1)
        return self.wte(torch.where(ids == self.codes, self.mask_row, ids + self.first_code))

    def embed_probs(self, probs: Tensor, mask: Tensor | None = None) -> Tensor:
        table = self.wte.weight
        codes = table[self.first_code : self.first_code + self.codes]
        rows = probs.squeeze(-2) @ codes.to(probs.dtype)
        if mask is not None:
            rows = torch.where(mask, table[self.mask_row].to(rows.dtype), rows)
        return rows.to(table.dtype)

    def hidden(
        self, embeds: Tensor, cond: Cond, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        sequence, keys = self.assembled(embeds, cond.tensors["text"].long())
        last, tapped = self.through_blocks(sequence, keys, taps)
        image = self.image_of(self.ln_f(last))
        return (image, [self.image_of(tap) for tap in tapped]) if taps else image

    def assembled(self, embeds: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """The sequence [B, S, D] of text ids [B, T] and image, and what of it [B, S] is seen."""
        count, width = embeds.shape[0], embeds.shape[-1]
        image = embeds.unflatten(1, self.grid)
        newline = self.marks(self.newline).expand(count, self.grid[0], 1, width)
        parts = [
            self.wte(text.clamp(min=0)).to(embeds.dtype),
            self.marks(*self.before).expand(count, -1, -1),
            torch.cat([image, newline.to(image.dtype)], dim=2).flatten(1, 2),
            self.marks(*self.behind).expand(count, -1, -1),
        ]
        sequence = torch.cat([part.to(embeds.dtype) for part in parts], dim=1)
        others = sequence.shape[1] - text.shape[1]
        return sequence, F.pad(text >= 0, (0, others), value=True)

    def marks(self, *rows: int) -> Tensor:
        """The embeddings [n, D] of tokens that are no image tokens."""
        return torch.stack([self.wte.weight[row] for row in rows])

    def through_blocks(
        self, x: Tensor, keys: Tensor, taps: Sequence[int] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """The whole sequence behind the last block, and behind those of `taps`."""
        rotary = rotary_table(x.shape[1], self.head_width, self.theta, x.device)
        tapped = []
        for index, block in enumerate(self.blocks):
            x = self.run_block(block, x, rotary, keys)
            if index in taps:
                tapped.append(x)
        return x, tapped

    def image_of(self, sequence: Tensor) -> Tensor:
        """The image tokens [B, L, D] of a sequence: no newlines, and nothing around them."""
        rows, columns = self.grid
        end = sequence.shape[1] - len(self.behind)
        image = sequence[:, end - rows * (columns + 1) : end].unflatten(1, (rows, columns + 1))
        return image[:, :, :columns].flatten(1, 2)

    def head(self, hidden: Tensor, positions: Tensor | None = None) -> Tensor:
        return self.ff_out(hidden)[..., None, :]

    def last_linear(self, hidden: Tensor) -> LastLinear:
        return LastLinear(hidden, self.ff_out.weight)

    def embedding_parameters(self) -> list[nn.Parameter]:
        """The table and the head."""
        return [*self.wte.parameters(), *self.ff_out.parameters()]
