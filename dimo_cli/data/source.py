"""What images come from: each has a name and a class or caption; what is not taken says why."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dimo_cli.data.pictures import check_shape
from dimo_cli.errors import DimoError, SpecError
from dimo_cli.files.pictures import reason, true_color

RESIZE = (
    "turned as EXIF says, shorter side by PIL bicubic with antialiasing, center crop, "
    "RGB in [-1, 1]"
)
# What can be wrong with the file of one picture; other errors are those of a disk or a machine.
OF_ONE_FILE = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP)
Mark = tuple[int, int]
"""The size of a file, and when it was written, in the whole seconds that copies keep."""

CAPTION_COLUMNS = ("caption", "text", "prompt")


def prepare(image: Image.Image, size: int) -> Tensor:
    """The recipe RESIZE: a picture of any size to [3, size, size]; `Unfit` where it hides some."""
    check_shape(image.size)
    image = true_color(image)
    shorter = min(image.size)
    width, height = (max(size, round(side * size / shorter)) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.crop((left, top, left + size, top + size))
    pixels = torch.from_numpy(np.array(image, dtype=np.float32))
    return pixels.permute(2, 0, 1) / 127.5 - 1


def mark_of(path: Path) -> Mark | None:
    """The mark of a file; None where it is gone."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_size, int(about.st_mtime)


class Source(ABC):
    """Images in a fixed order, each with a name and the word or caption that belongs to it."""

    def __init__(self, names: Sequence[str], words: Sequence[str], others: int = 0) -> None:
        """`others` counts files that are no images and were left out."""
        self.names, self.words, self.others = list(names), list(words), others

    def __len__(self) -> int:
        return len(self.names)

    def named(self, source: str) -> str:
        """The source as it is kept: what somebody named, without what may change."""
        return source

    @abstractmethod
    def open(self, index: int) -> Image.Image:
        """An image as it is stored."""

    def marks(self, rows: range) -> list[Mark | None]:
        """What tells images from others that may stand under the same names; None: nothing can."""
        return [None] * len(rows)

    def image(self, index: int, size: int) -> Tensor:
        """An image at the size the tokenizer takes; one that is not taken is refused by name."""
        found = self.image_or_reason(index, size)
        if isinstance(found, str):
            raise SpecError(
                f"`{self.names[index]}` cannot be encoded: {found}.",
                "Repair or remove it and run the same command again; finished shards are kept.",
            )
        return found

    def image_or_reason(self, index: int, size: int) -> Tensor | str:
        """An image at the size the tokenizer takes, or why it is not taken."""
        try:
            return prepare(self.open(index), size)
        except (MemoryError, DimoError):
            raise
        except Exception as error:  # of whichever decoder
            if isinstance(error, OSError) and error.errno not in (None, *OF_ONE_FILE):
                raise
            return reason(error)
