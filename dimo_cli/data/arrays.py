"""Images in a fixed order, and those of an npz file, which is read in blocks."""

from __future__ import annotations

import math
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from dimo_cli.errors import SpecError
from dimo_cli.files.untrusted import ARCHIVE_ERRORS, Untrusted, check_archive, read_header

CHANNELS = 3


class Images(ABC):
    """Images in a fixed order, each with its prompt where there are prompts."""

    prompts: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abstractmethod
    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Batches of at most `size` images; `start` and `stop` are one process's share."""

    def notes(self) -> list[str]:
        """What should be said beside a number of these images; complete once all were read."""
        return []


class ArrayImages(Images):
    """The bytes [N, H, W, 3] of an npz file, as ADM's suite keeps samples and reference images.

    ADM's file has two gigabytes, so never more than a batch of it is held.
    """

    def __init__(self, path: Path, key: str = "arr_0", count: int | None = None) -> None:
        self.path, self.member = path, f"{key}.npy"
        with self._open() as (shape, _):
            self.shape = shape
        self.count = shape[0] if count is None else min(count, shape[0])

    def __len__(self) -> int:
        return self.count

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        stop = len(self) if stop is None else stop
        one = int(np.prod(self.shape[1:]))
        with self._open() as (_, file):
            file.seek(start * one, 1)
            for first in range(start, stop, size):
                count = min(size, stop - first)
                block = bytearray(file.read(count * one))
                if len(block) < count * one:
                    raise truncated(self.path)
                images = np.frombuffer(block, np.uint8).reshape(count, *self.shape[1:])
                yield Batch(torch.from_numpy(images).permute(0, 3, 1, 2), first)

    @contextmanager
    def _open(self) -> Iterator[tuple[tuple[int, ...], IO[bytes]]]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                check_archive(archive)
                if self.member not in archive.namelist():
                    raise SpecError(
                        f"`{self.path}` has no images: it holds {', '.join(archive.namelist())}.",
                        f"An npz of images has them in `{self.member.removesuffix('.npy')}`.",
                    )
                with archive.open(self.member) as file:
                    yield self._shape(file, archive.getinfo(self.member).file_size), file
        except (*ARCHIVE_ERRORS, Untrusted) as error:
            why = str(error) if isinstance(error, Untrusted) else ""
            raise truncated(self.path, why) from error

    def _shape(self, file: IO[bytes], size: int) -> tuple[int, ...]:
        shape, in_columns, dtype = read_header(file)
        found = f"`{self.path}` has an array {dtype}{list(shape)}"
        if dtype != np.uint8 or len(shape) != 4 or shape[-1] != CHANNELS or in_columns:
            raise SpecError(
                f"{found} where images should be.",
                "Images are bytes (uint8) [number, height, width, 3], in the order of C.",
            )
        if 0 in shape:
            raise SpecError(f"{found}: it has no images.")
        if math.prod(shape) != size - file.tell():
            raise truncated(self.path)
        return shape


def truncated(path: Path, why: str = "") -> SpecError:
    """The sentence for a damaged npz file."""
    told = f": {why}" if why else ""
    return SpecError(f"`{path}` is truncated or damaged{told}.", "Copy or download it again.")


@dataclass(frozen=True, slots=True)
class Batch:
    """Some images of an evaluation, as they would be read from disk."""

    images: Tensor
    """Bytes [B, 3, H, W]: what is generated is rounded first, so that folders give the same."""
    first: int = 0
    """Global number of the first image."""
    prompts: tuple[str, ...] = ()
    """The prompt of each image; empty for classes and folders without captions."""
    labels: tuple[int, ...] = ()
    """The class of each image, where they were drawn by class."""

    def __len__(self) -> int:
        return len(self.images)
