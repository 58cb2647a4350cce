"""Moving pictures as GIF files: few colors, shared by all frames, and a word on what made them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dimo_cli.errors import MissingError
from dimo_cli.files.png import Pixels

COLORS = 256
MOST_LOOKED_AT = 5  # frames that choose the colors


def save_gif(
    frames: Sequence[Pixels], milliseconds: Sequence[int], path: Path, about: str = ""
) -> None:
    """Write frames [H, W, 3] that loop for ever; smaller ones are filled up at right and foot."""
    size = tuple(max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    filled = [Image.fromarray(fill(frame, size)) for frame in frames]
    palette = palette_of(filled)
    first, *others = (image.quantize(palette=palette, dither=Image.Dither.NONE) for image in filled)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        first.save(
            path,
            format="GIF",
            save_all=True,
            append_images=others,
            duration=list(milliseconds),
            loop=0,
            comment=about.encode()[:255],
        )
    except OSError as error:
        raise MissingError(
            f"Cannot write `{path}`: {error.strerror or error}.",
            "Choose another place with `--animate`.",
        ) from None


def fill(frame: Pixels, size: tuple[int, ...]) -> Pixels:
    """A frame made as large as the others, with the color of its corner."""
    height, width, _ = frame.shape
    canvas = np.empty((*size, 3), np.uint8)
    canvas[:] = frame[-1, -1]
    canvas[:height, :width] = frame
    return canvas


def palette_of(images: Sequence[Image.Image]) -> Image.Image:
    """The colors that pictures of one size need together, by some of them."""
    some = [*images[:: -(-len(images) // MOST_LOOKED_AT)], images[-1]]
    strip = Image.fromarray(np.concatenate([np.asarray(image) for image in some], axis=1))
    return strip.quantize(COLORS, Image.Quantize.MEDIANCUT)
