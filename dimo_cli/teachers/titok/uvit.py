"""The generator of TiTok S-128: a U-ViT, whose later blocks see what the earlier ones made.

Names of modules are those of the published files. It was trained without dropout.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.teachers.protocol import Cond
from dimo_cli.teachers.titok.architecture import Architecture
from dimo_cli.teachers.titok.generator import TiTokGenerator, attend, table_rows


class Attention(nn.Module):
    """Full attention; q, k and v come from one matrix without bias, in that order."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, S, D] to [B, S, D]."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(attend(q, k, v, self.heads))


class MLP(nn.Module):
    """Wider and back, with the exact GELU between."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(arch.hidden_size)
        self.attn = Attention(arch.hidden_size, arch.num_attention_heads)
        self.norm2 = nn.LayerNorm(arch.hidden_size)
        self.mlp = MLP(arch.hidden_size, arch.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, S, D] to [B, S, D]."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class OutBlock(Block):
    """A block that first takes in the output of an earlier one."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__(arch)
        self.skip_linear = nn.Linear(2 * arch.hidden_size, arch.hidden_size)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        """Map [B, S, D] and the skipped [B, S, D] to [B, S, D]."""
        return super().forward(self.skip_linear(torch.cat([x, skip], dim=-1)))


class UViTGenerator(TiTokGenerator):
    """Class and image tokens through a U-ViT; the output of the class token is not used."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__(arch)
        half, width = arch.num_hidden_layers // 2, arch.hidden_size
        self.embeddings = nn.Embedding(table_rows(arch), width)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, arch.num_latent_tokens + 1, width))
        self.in_blocks = nn.ModuleList(Block(arch) for _ in range(half))
        self.mid_block = Block(arch)
        self.out_blocks = nn.ModuleList(OutBlock(arch) for _ in range(half))
        self.norm = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, arch.codebook_size)

    @property
    def table(self) -> nn.Embedding:
        return self.embeddings

    @property
    def to_logits(self) -> nn.Linear:
        return self.lm_head

    def hidden(
        self, embeds: Tensor, cond: Cond, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        x = self.with_class(embeds, cond) + self.pos_embed
        outputs = []
        for block in (*self.in_blocks, self.mid_block):
            x = self.run_block(block, x)
            outputs.append(x)
        skips = outputs[:-1]
        for block in self.out_blocks:
            x = self.run_block(block, x, skips.pop())
            outputs.append(x)
        x = self.norm(x)[:, 1:]
        tapped = [output[:, 1:] for index, output in enumerate(outputs) if index in taps]
        return (x, tapped) if taps else x
