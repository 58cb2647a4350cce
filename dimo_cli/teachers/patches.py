"""What the tokenizers of the embedded text teachers share: pictures as codes of their patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.teachers.expectation import expected
from dimo_cli.teachers.protocol import Cond, Tokenizer


class Residual(nn.Module):
    """Two convolutions beside a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C, H, W]."""
        return x + self.second(F.silu(self.first(F.silu(x))))


def patch_encoder(width: int, code_width: int) -> nn.Sequential:
    """An encoder that makes each code of its own 4x4 pixels alone.

    A flat patch has one code wherever it is then, which leaves the transformer less to guess. Only
    the decoder looks around.
    """
    return nn.Sequential(
        nn.Conv2d(3, width, 4, stride=4),
        nn.SiLU(),
        nn.Conv2d(width, width, 1),
        nn.SiLU(),
        nn.Conv2d(width, code_width, 1),
    )


class PatchTokenizer(Tokenizer):
    """An encoder, a codebook, and a decoder, which a subclass makes."""

    encoder: nn.Sequential
    codebook: nn.Embedding
    decoder: nn.Sequential
    grid: int
    """Rows of codes, and columns."""

    def latents(self, images: Tensor) -> Tensor:
        """Images to vectors [B, L, C] that are yet to be rounded to codes."""
        return self.encoder(images).flatten(2).transpose(1, 2)

    def nearest(self, latents: Tensor) -> Tensor:
        """The nearest code of each vector: [B, L, C] to [B, L]."""
        codes = self.codebook.weight
        return (codes.square().sum(-1) - 2 * latents @ codes.T).argmin(-1)

    def encode(self, images: Tensor) -> Tensor:
        return self.nearest(self.latents(images))[..., None]

    def decode(self, tokens: Tensor, cond: Cond | None = None) -> Tensor:
        return self.paint(self.codebook(tokens.squeeze(-1)))

    def decode_probs(self, probs: Tensor, cond: Cond | None = None) -> Tensor:
        return self.paint(expected(probs.squeeze(-2), self.codebook.weight))

    def paint(self, vectors: Tensor) -> Tensor:
        """Code vectors [B, L, C] to images."""
        grid = vectors.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return self.decoder(grid)

    def commitment(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For training: rounded vectors that pass gradients on, the codes, and the distance."""
        tokens = self.nearest(latents)
        rounded = self.codebook(tokens)
        distance = (rounded.detach() - latents).square().mean()
        return latents + (rounded - latents).detach(), tokens, distance


@torch.no_grad()
def move_codebook(
    tokenizer: PatchTokenizer, latents: Tensor, tokens: Tensor, counts: Tensor, sums: Tensor
) -> None:
    """One step of the codebook towards the vectors it stands for; unused codes start anew.

    `counts` [V] and `sums` [V, C] are running sums that the caller keeps.
    """
    flat, codes = latents.detach().flatten(0, 1), tokens.flatten()
    counts.mul_(0.99).add_(torch.bincount(codes, minlength=len(counts)), alpha=0.01)
    sums.mul_(0.99).index_add_(0, codes, flat, alpha=0.01)
    alive = counts > 0.02
    means = sums / counts.clamp(min=1e-6)[:, None]
    strangers = flat[torch.randint(len(flat), (len(counts),))]
    tokenizer.codebook.weight.copy_(torch.where(alive[:, None], means, strangers))
    sums.copy_(torch.where(alive[:, None], sums, strangers))
    counts.masked_fill_(~alive, 1.0)
