"""From generated images to what reward models look at, differentiable to the pixels.

All published rewards share this one recipe: shorter side to the network's size by a bicubic resize,
center crop, CLIP's mean and deviation.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def to_unit_range(images: Tensor) -> Tensor:
    """Images in [-1, 1] as float32 in [0, 1]; what lies outside is clamped and gets no gradient."""
    return ((images.float() + 1) / 2).clamp(0, 1)


def resize_shorter_side(images: Tensor, size: int, antialias: bool = True) -> Tensor:
    """Bicubic resize that keeps the aspect ratio; the longer side is rounded down."""
    height, width = images.shape[-2:]
    if min(height, width) == size:
        return images
    shape = [int(size * side / min(height, width)) for side in (height, width)]
    return F.interpolate(images, shape, mode="bicubic", align_corners=False, antialias=antialias)


def center_crop(images: Tensor, size: int) -> Tensor:
    """The square in the middle; half a pixel is rounded as torchvision rounds it."""
    top, left = (round((side - size) / 2) for side in images.shape[-2:])
    return images[..., top : top + size, left : left + size]


def normalize(
    images: Tensor,
    size: int,
    mean: tuple[float, ...] = CLIP_MEAN,
    std: tuple[float, ...] = CLIP_STD,
    antialias: bool = True,
) -> Tensor:
    """Float32 images [B, 3, H, W] in [0, 1] to normalized ones [B, 3, size, size]."""
    square = center_crop(resize_shorter_side(images, size, antialias), size)
    center, scale = square.new_tensor(mean), square.new_tensor(std)
    return (square - center[:, None, None]) / scale[:, None, None]


def preprocess(images: Tensor, size: int, antialias: bool = True) -> Tensor:
    """Images [B, 3, H, W] in [-1, 1] of any size and type to normalized float32 ones."""
    return normalize(to_unit_range(images), size, antialias=antialias)
