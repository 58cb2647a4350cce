"""The one door through which pictures of others are read, and the one rule for what is taken."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import IO

from PIL import ExifTags, Image, UnidentifiedImageError

# What PIL decodes by itself. Of the other formats some hand a file on to programs of the system:
# PostScript, whatever its file is called, would reach Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
MOST_PIXELS = 2**26  # more than any sample has; a few kilobytes can claim far more
MOST_BYTES = 2**29  # as many as so many pixels have at most, with 16 bits in four channels

# Modes that are converted to RGB with a note, and those that need none.
NOTED = {"L": "grayscale", "LA": "grayscale", "1": "black and white", "CMYK": "CMYK"}
PLAIN = ("RGB", "RGBA", "P", "PA")
DEEP = re.compile(r";16[BLN]")  # what PIL calls two bytes per sample in a file

# How a picture is turned upright, by the orientation that a camera wrote into it.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LYING = (5, 6, 7, 8)  # those that exchange width and height


class Unfit(ValueError):
    """A picture that can be opened and is not taken; the message says why, as a noun."""


class TooManyPixels(Unfit):
    """A picture claims more pixels than memory should be given for."""


def is_picture(name: str, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    """Whether a name is that of a picture, and not what some systems leave beside pictures."""
    last = name.rsplit("/", 1)[-1]
    return last.lower().endswith(suffixes) and not last.startswith(".")


def open_picture(file: Path | IO[bytes], most_pixels: int = MOST_PIXELS) -> Image.Image:
    """A picture whose header is read; its pixels are decoded when they are asked for."""
    if isinstance(file, Path):
        check_file(file)
    image = Image.open(file, formats=FORMATS)
    if image.size[0] * image.size[1] > most_pixels:
        image.close()
        raise TooManyPixels(f"it has {image.size[0]} x {image.size[1]} pixels")
    return image


def check_file(path: Path) -> None:
    """Refuse what would keep a decoder waiting, such as a pipe, and what it would read whole."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise Unfit("it is no file")
    if about.st_size > MOST_BYTES:
        raise Unfit(f"it has {about.st_size:,} bytes")


def true_color(image: Image.Image) -> Image.Image:
    """A picture in RGB, turned as a viewer shows it; what would be lost on the way is refused.

    The rule for every picture that is measured or encoded: the orientation of its EXIF data is
    applied; several frames, more than 8 bits per channel, other color spaces and transparent
    pixels are `Unfit`. Gray, CMYK, palettes and alpha that hides nothing become RGB.
    """
    if problem := problem_of(image):
        raise Unfit(problem)
    image.load()  # a PNG may tell its orientation behind its pixels
    if (turn := UPRIGHT.get(orientation(image))) is not None:
        image = image.transpose(turn)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise Unfit("transparent pixels, which have no color")
    return image.convert("RGB")


def problem_of(image: Image.Image) -> str:
    """Why a picture whose header is read is not taken; empty where it may be."""
    if getattr(image, "n_frames", 1) > 1:
        return "several frames"
    if image.mode.startswith(("I", "F")) or DEEP.search(str(getattr(image, "tile", ""))):
        return "more than 8 bits per channel"
    if image.mode not in PLAIN and image.mode not in NOTED:
        return f"the color mode {image.mode}"
    return ""


def orientation(image: Image.Image) -> int:
    """How a camera was held; upright (1) where it did not say, or not legibly."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # of whatever is damaged: such EXIF data turns a picture in no viewer
        return 1


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as a viewer shows them, from the header alone."""
    width, height = image.size
    # PIL has turned the size of a TIFF already, and would decode a PNG to look behind its pixels.
    known = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
    return (height, width) if known and orientation(image) in LYING else (width, height)


def reason(error: Exception) -> str:
    """What is wrong with a picture that was not taken, as a noun."""
    if isinstance(error, PermissionError):
        return "it may not be opened"
    if isinstance(error, FileNotFoundError):
        return "a link to nothing"
    if isinstance(error, Image.DecompressionBombError | TooManyPixels):
        return "too many pixels for a sample"
    if isinstance(error, Unfit):
        return str(error)
    if isinstance(error, UnidentifiedImageError | EOFError):
        return "no readable image"
    first_line = (str(error).splitlines() or [type(error).__name__])[0][:120]
    return f"no readable image ({first_line})"
