"""Pictures: grids, PNG files that know where they come from, and half-blocks in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.style import Style
from rich.text import Text

from dimo_cli.errors import MissingError

Pixels = NDArray[np.uint8]
UPPER_HALF_BLOCK = "\u2580"


def grid(images: Pixels, columns: int, gap: int = 1, background: int = 24) -> Pixels:
    """Lay images [N, H, W, 3] out in rows of `columns`, `gap` pixels apart."""
    count, height, width, _ = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, 3)
    canvas = np.full(shape, background, dtype=np.uint8)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas


def enlarge(pixels: Pixels, smallest_side: int) -> Pixels:
    """Repeat pixels a whole number of times until no image side is below `smallest_side`."""
    factor = max(1, -(-smallest_side // min(pixels.shape[-3:-1])))
    return pixels.repeat(factor, axis=-3).repeat(factor, axis=-2)


def png_bytes(pixels: Pixels, provenance: Mapping[str, str]) -> bytes:
    """A PNG whose text chunks say what made it."""
    info = PngInfo()
    for key, value in provenance.items():
        info.add_itxt(key, value)
    file = BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", pnginfo=info)
    return file.getvalue()


def save_png(pixels: Pixels, path: Path, provenance: Mapping[str, str]) -> None:
    """Write a PNG whose text chunks say what made it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png_bytes(pixels, provenance))
    except OSError as error:
        raise MissingError(
            f"Cannot write `{path}`: {error.strerror or error}.",
            "Choose another place with `--grid` or `--out`.",
        ) from None


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
