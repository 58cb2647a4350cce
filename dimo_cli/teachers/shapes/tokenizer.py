"""A small VQ tokenizer: 32x32 pictures as 8x8 codes of a learned codebook."""

from __future__ import annotations

from torch import nn

from dimo_cli.teachers.patches import PatchTokenizer, Residual, patch_encoder

GRID, CODES, CODE_WIDTH = 8, 256, 16


class ShapesTokenizer(PatchTokenizer):
    """A convolutional encoder, a codebook, and a convolutional decoder."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.grid = GRID
        self.encoder = patch_encoder(2 * width, CODE_WIDTH)
        self.codebook = nn.Embedding(CODES, CODE_WIDTH)
        self.decoder = nn.Sequential(
            nn.Conv2d(CODE_WIDTH, 2 * width, 3, padding=1),
            Residual(2 * width),
            Residual(2 * width),
            nn.SiLU(),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1),
            nn.PixelShuffle(2),
            Residual(width),
            nn.SiLU(),
            nn.Conv2d(width, 4 * 16, 3, padding=1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(16, 3, 3, padding=1),
        )
