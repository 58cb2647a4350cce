"""Images as pixels, grids and PNG files with their provenance."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dimo_cli.errors import MissingError
from dimo_cli.files.writing import whole_file

Pixels = NDArray[np.uint8]


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


def save_png(
    pixels: Pixels,
    path: Path,
    provenance: Mapping[str, str],
    hint: str = "Choose another place with `--grid` or `--out`.",
) -> None:
    """Write a PNG whose text chunks say what made it, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            temporary.write_bytes(png_bytes(pixels, provenance))
    except OSError as error:
        raise MissingError(
            f"Cannot write `{path}`: {error.strerror or error}.",
            hint,
        ) from None
