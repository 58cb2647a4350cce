"""One picture of a folder that is to be measured: what its header says, its pixels, its crop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dimo_cli.errors import SpecError, did_you_mean
from dimo_cli.files.pictures import SUFFIXES as PICTURES
from dimo_cli.files.pictures import (
    Unfit,
    open_picture,
    problem_of,
    reason,
    shown_size,
    true_color,
)
from dimo_cli.files.png import Pixels
from dimo_cli.files.untrusted import read_array

SUFFIXES = (*PICTURES, ".npy")
# A strip longer than that is no sample: its short side would be brought up first, and its long side
# with it.
LONGEST = 64


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of its picture before the pixels are read."""

    size: tuple[int, int]
    """Width and height as a viewer shows it."""
    mode: str
    format: str
    problem: str = ""
    """Why it cannot be measured; empty where it can."""


def read_header(file: BinaryIO, name: str) -> Header:
    """The header of a picture, or what is wrong with it."""
    try:
        if name.lower().endswith(".npy"):
            return array_header(file)
        with open_picture(file) as image:
            return Header(shown_size(image), image.mode, image.format or "?", problem_of(image))
    except Exception as error:  # of whichever decoder
        return Header((0, 0), "", "", reason(error))


def array_header(file: BinaryIO) -> Header:
    """The header of an array in a .npy file."""
    array = whole_array(file)
    size = (array.shape[1], array.shape[0]) if array.ndim > 1 else (0, 0)
    problem = ""
    if array.dtype.kind == "f" and np.isnan(array).any():
        problem = "NaN"
    elif array.dtype != np.uint8:
        problem = f"an array of {array.dtype}, not of bytes (uint8)"
    elif array.ndim != 3 or array.shape[2] != 3:
        problem = f"an array of shape {list(array.shape)}, not [height, width, 3]"
    return Header(size, "RGB", "NPY", problem)


def whole_array(file: BinaryIO) -> NDArray[Any]:
    """The array of a .npy file, which must be as long as it says."""
    size = file.seek(0, 2)
    file.seek(0)
    return read_array(file, size)


def read_pixels(file: BinaryIO, name: str, fit: Fit | None = None) -> Pixels:
    """The picture [H, W, 3]; one that hides something is refused."""
    if name.lower().endswith(".npy"):
        array: Pixels = whole_array(file)
        return np.asarray(fit(Image.fromarray(array))) if fit else array
    with open_picture(file) as image:
        picture = true_color(image)
    return np.array(fit(picture) if fit else picture)


def check_shape(size: tuple[int, int]) -> None:
    """Refuse a picture that is too long and narrow to be made a square."""
    if max(size) > LONGEST * min(size):
        raise Unfit(f"{size[0]} x {size[1]} pixels, too long and narrow for a square")


@dataclass(frozen=True, slots=True)
class Fit:
    """How pictures of any size become squares of one size, as some protocols ask for."""

    kind: str
    size: int

    def __post_init__(self) -> None:
        if self.kind not in FITS:
            raise SpecError(f"{self.kind!r} is not a known crop.", did_you_mean(self.kind, FITS))
        if self.size < 1:
            raise SpecError(f"A crop to {self.size} pixels is impossible: give 1 or more.")

    @property
    def note(self) -> str:
        """The recipe in words, for the facts of a reference."""
        return f"{FITS[self.kind]}, {self.size}x{self.size}"

    def __call__(self, picture: Image.Image) -> Image.Image:
        """The square."""
        check_shape(picture.size)
        width, height = picture.size
        if self.kind == "lanczos":
            side = min(width, height)
            left, top = round((width - side) / 2), round((height - side) / 2)
            square = picture.crop((left, top, left + side, top + side))
            return square.resize((self.size, self.size), Image.Resampling.LANCZOS)
        while self.kind == "adm" and min(picture.size) >= 2 * self.size:
            halved = (picture.size[0] // 2, picture.size[1] // 2)
            picture = picture.resize(halved, Image.Resampling.BOX)
        scale = self.size / min(picture.size)
        width, height = (max(self.size, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        return picture.crop((left, top, left + self.size, top + self.size))


FITS = {
    "lanczos": "center crop to the shorter side, then PIL Lanczos (COCO-30K)",
    "bicubic": "shorter side by PIL bicubic, then center crop",
    "adm": "halved by PIL box while twice too large, shorter side by PIL bicubic, then center crop "
    "(ADM's ImageNet)",
}
