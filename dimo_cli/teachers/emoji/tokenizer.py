"""The VQ tokenizer of `emoji`: 32x32 pictures as 8x8 codes of a learned codebook."""

from __future__ import annotations

from torch import nn

from dimo_cli.teachers.patches import PatchTokenizer, Residual, patch_encoder

GRID, CODES, CODE_WIDTH = 8, 1024, 16


class EmojiTokenizer(PatchTokenizer):
    """Codes of patches, and a decoder that sees each among its neighbors."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.grid = GRID
        self.encoder = patch_encoder(width, CODE_WIDTH)
        self.codebook = nn.Embedding(CODES, CODE_WIDTH)
        fine = width // 2
        self.decoder = nn.Sequential(
            nn.Conv2d(CODE_WIDTH, width, 3, padding=1),
            Residual(width),
            Residual(width),
            nn.SiLU(),
            nn.Conv2d(width, 4 * fine, 3, padding=1),
            nn.PixelShuffle(2),
            Residual(fine),
            Residual(fine),
            nn.SiLU(),
            nn.Conv2d(fine, 4 * 24, 3, padding=1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(24, 3, 3, padding=1),
        )
