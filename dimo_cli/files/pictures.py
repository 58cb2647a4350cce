"""The one door through which pictures of others are read."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from PIL import Image

# What PIL decodes by itself. Of the other formats some hand a file on to programs of the system:
# PostScript, whatever its file is called, would reach Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")
MOST_PIXELS = 2**26  # more than any sample has; a few kilobytes can claim far more


class TooManyPixels(ValueError):
    """A picture claims more pixels than memory should be given for."""


def open_picture(file: Path | IO[bytes], most_pixels: int = MOST_PIXELS) -> Image.Image:
    """A picture whose header is read; its pixels are decoded when they are asked for."""
    image = Image.open(file, formats=FORMATS)
    if image.size[0] * image.size[1] > most_pixels:
        image.close()
        raise TooManyPixels(f"it has {image.size[0]} x {image.size[1]} pixels")
    return image
