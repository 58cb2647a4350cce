"""A teacher's steps as pictures: what it has drawn so far, and gray where tokens are masked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dimo_cli.files.png import Pixels
from dimo_cli.sampling.samplers import sample_images, to_pixels
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.target import Target


def veiled(images: Tensor, masked: Tensor, grid: tuple[int, int] | None) -> Pixels:
    """Images [B, 3, H, W] as bytes, middle gray where slots [B, L, G] are masked.

    Tokens without a place in the image, as those of 1-D tokenizers, veil all of it by their share.
    """
    share = masked.float().mean(-1)
    if grid is None:
        veil = share.mean(-1)[:, None, None, None]
    else:
        veil = interpolate(share.view(-1, 1, *grid), images.shape[-2:])
    return to_pixels(images.float() * (1 - veil))


def start_of(pixels: Pixels) -> Pixels:
    """Pictures as they are before the first step, when every token is masked."""
    images = torch.zeros(len(pixels), 3, *pixels.shape[1:3])
    return to_pixels(images)


def sample_with_steps(
    target: Target, wanted: Sequence[int | str], spec: SamplerSpec
) -> tuple[list[Pixels], dict[str, Any]]:
    """Images [N, H, W, 3] after every step, with their protocol; of a student the last.

    For as many as are drawn at once. The last are those that `sample_images` draws.
    """
    steps: list[Pixels] = []
    grid = target.teacher.space.grid

    def watch(paint: Callable[[], Tensor], masked: Tensor) -> None:
        steps.append(veiled(paint(), masked, grid))

    pixels, protocol = sample_images(target, wanted, spec, watch=watch)
    return [*steps[:-1], pixels], protocol
