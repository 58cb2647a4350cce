"""Images to the size of a feature network, each way as published numbers were made.

A FID depends on the resize as much as on the generator, so the three ways have the names that
clean-fid gave them, and a result is only comparable with others of the same name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dimo_cli.errors import SpecError, did_you_mean

SIDE = 299
MOST_THREADS = 16
PART = 8  # images
Resize = Callable[[Tensor, int, int], Tensor]


def resize_images(images: Tensor, mode: str, height: int = SIDE, width: int = SIDE) -> Tensor:
    """Bytes [B, 3, H, W] to float32 images of 0..255 at the size of Inception, by mode."""
    check_mode(mode)
    return RESIZES[mode](images, height, width)


def resized_parts(images: Tensor, mode: str) -> Iterator[Tensor]:
    """`resize_images` in parts; on a CPU the next ones are made while a network looks at one."""
    if images.is_cuda:
        yield resize_images(images, mode)
        return
    with ThreadPoolExecutor(1) as ahead:
        yield from ahead.map(partial(resize_images, mode=mode), images.split(PART))


def check_mode(mode: str) -> None:
    """Refuse a resize that does not exist."""
    if mode not in RESIZES:
        raise SpecError(f"{mode!r} is not a known resize.", did_you_mean(mode, RESIZES))


def clean(images: Tensor, height: int, width: int) -> Tensor:
    """Bicubic with antialiasing, each channel in floating point, clipped and never rounded."""
    if images.is_cuda:  # an image takes a CPU core longer than it takes a GPU to look at it
        return clean_by_matrices(images, height, width)
    resizer = clean_fid_resizer(height, width)
    resized = np.empty((len(images), 3, height, width), dtype=np.float32)

    def one(number: int, pixels: NDArray[Any]) -> None:
        resized[number] = resizer(pixels).transpose(2, 0, 1)

    in_threads(one, images.permute(0, 2, 3, 1).numpy())
    return torch.from_numpy(resized)


@cache
def clean_fid_resizer(height: int, width: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """clean-fid's own resize of one image [H, W, 3] through PIL."""
    from cleanfid.resize import make_resizer

    resizer: Callable[[NDArray[Any]], NDArray[Any]] = make_resizer(
        "PIL", False, "bicubic", (width, height)
    )
    return resizer


def clean_by_matrices(images: Tensor, height: int, width: int) -> Tensor:
    """What `clean` gives, to a ten-thousandth of a gray level, as two products with a batch.

    Float64: a GPU may be set to multiply float32 matrices with ten bits only.
    """
    rows = bicubic_matrix(images.shape[-2], height).to(images.device)
    columns = bicubic_matrix(images.shape[-1], width).to(images.device)
    return (rows @ images.double() @ columns.T).clamp(0, 255).float()


@cache
def bicubic_matrix(source: int, target: int) -> Tensor:
    """The weights [target, source] of PIL's bicubic filter (a = -1/2), widened to antialias."""
    scale = source / target
    width = max(scale, 1.0)
    centers = (torch.arange(target, dtype=torch.float64) + 0.5) * scale
    pixels = torch.arange(source, dtype=torch.float64) + 0.5
    t = (pixels - centers[:, None]).abs() / width
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    weights = torch.where(t < 1, near, torch.where(t < 2, far, 0.0))
    return weights / weights.sum(1, keepdim=True)


def legacy_tensorflow(images: Tensor, height: int, width: int) -> Tensor:
    """Bilinear as in TensorFlow 1: pixel i of the result lies at i * in / out, no antialiasing."""
    rows = stretch(images.float(), height, dim=2)
    return stretch(rows, width, dim=3)


def stretch(images: Tensor, size: int, dim: int) -> Tensor:
    """Linear interpolation along one side; the last pixel is repeated beyond the edge."""
    length = images.shape[dim]
    places = torch.arange(size, dtype=torch.float64, device=images.device) * (length / size)
    before = places.long()
    after = (before + 1).clamp(max=length - 1)
    share = (places - before).float()
    weight = share[:, None] if dim == 2 else share
    return torch.lerp(images.index_select(dim, before), images.index_select(dim, after), weight)


def legacy_pytorch(images: Tensor, height: int, width: int) -> Tensor:
    """Bilinear with half-pixel centers, no antialiasing."""
    return F.interpolate(images.float(), (height, width), mode="bilinear", align_corners=False)


def pil_bicubic(images: Tensor, size: int) -> Tensor:
    """Bytes to bytes [B, 3, size, size] as PIL resizes pictures, whatever their proportions."""
    resized = np.empty((len(images), size, size, 3), dtype=np.uint8)

    def one(number: int, pixels: NDArray[Any]) -> None:
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        resized[number] = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))

    in_threads(one, images.permute(0, 2, 3, 1).cpu().numpy())
    return torch.from_numpy(resized).permute(0, 3, 1, 2).to(images.device)


def in_threads(work: Callable[[int, NDArray[Any]], None], images: NDArray[Any]) -> None:
    """Do the work for every image; PIL lets other threads run meanwhile."""
    for _ in threads().map(work, range(len(images)), images):
        pass


@cache
def threads() -> ThreadPoolExecutor:
    """The threads of all resizes."""
    return ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1), "resize")


RESIZES: dict[str, Resize] = {
    "clean": clean,
    "legacy_tensorflow": legacy_tensorflow,
    "legacy_pytorch": legacy_pytorch,
}
