"""Pictures: grids, PNG files that know where they come from, and half-blocks in the terminal."""

from __future__ import annotations

import numpy as np
from PIL import Image
from rich.style import Style
from rich.text import Text

from dimo_cli.files.png import Pixels, grid

UPPER_HALF_BLOCK = "\u2580"


def draw(images: Pixels, columns: int, width: int) -> Text:
    """Draw images [N, H, W, 3] for a terminal of `width` columns, fewer per row if need be."""
    fitting = max(1, (width - 1) // (images.shape[2] + 1))
    return half_blocks(grid(images, min(columns, fitting)), width)


def half_blocks(pixels: Pixels, width: int) -> Text:
    """Draw pixels [H, W, 3] as text, two rows per line; a picture too wide is made smaller."""
    if pixels.shape[1] > width:
        height = max(1, pixels.shape[0] * width // pixels.shape[1])
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))
    if pixels.shape[0] % 2:
        pixels = np.concatenate([pixels, np.zeros_like(pixels[:1])])
    text = Text(no_wrap=True)
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        for top, bottom in zip(upper.tolist(), lower.tolist(), strict=True):
            text.append(UPPER_HALF_BLOCK, Style(color=_rgb(top), bgcolor=_rgb(bottom)))
        text.append("\n")
    text.rstrip()
    return text


def _rgb(color: list[int]) -> str:
    return f"rgb({color[0]},{color[1]},{color[2]})"
