"""From tokens to pixels, as fast as the device allows: most of a one-step image's time is this.

On CUDA a batch is painted in pieces that fit into memory. Compiled, convolutions run in bf16 with
channels last, which is what tensor cores are fed with. As it is written a decoder stays in float32:
around bf16 convolutions its norms would cast and turn every image twice, which an H200 takes 121 ms
for where float32 takes 84 (64 images of MaskBit). On a CPU it is float32, all at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from dimo_cli.errors import NotFinite
from dimo_cli.files.sound import is_finite
from dimo_cli.teachers.compiling import Compiled, Say, compiled
from dimo_cli.teachers.protocol import Cond, Teacher, Tokenizer

Precision = Literal["auto", "fp32"]

PIXELS_AT_ONCE = 2**22  # 64 images of 256 pixels a side, 4 of 1,024: some gigabytes in bf16


def chunks(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` that cover `count` rows."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def half_on_cuda(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Autocast to bf16 on CUDA, unless float32 is asked for; nothing elsewhere."""
    if device.type != "cuda" or precision == "fp32":
        return nullcontext()
    return torch.autocast("cuda", torch.bfloat16)


@torch.inference_mode()
def decode(
    teacher: Teacher, tokens: Tensor, cond: Cond | None = None, precision: Precision = "auto"
) -> Tensor:
    """Images [B, 3, H, W] in [-1, 1] of tokens [B, L, G]; refused where they are not finite."""
    images = painted(teacher, tokens, cond, precision)
    check_images(images, teacher)
    return images


def check_images(images: Tensor, teacher: Teacher) -> None:
    """Refuse images that are not finite: as bytes they would be pictures like any other."""
    if not is_finite(images):
        raise NotFinite(
            f"The images that the tokenizer of `{teacher.name}` paints are not finite.",
            "Its weights are too large: copy or download them again. Where only half precision "
            "overflows, `--precision fp32` helps.",
        )


def painted(teacher: Teacher, tokens: Tensor, cond: Cond | None, precision: Precision) -> Tensor:
    """Images of tokens, on a card a piece at a time."""
    tokenizer = teacher.tokenizer
    if tokens.device.type != "cuda":
        return tokenizer.decode(tokens, cond)
    if tokenizer.fast_decode is None:
        precision = "fp32"
    size = max(1, PIXELS_AT_ONCE // teacher.space.image_size**2)
    parts = [
        paint(tokenizer, tokens[rows], cond[rows] if cond else None, precision)
        for rows in chunks(len(tokens), size)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def paint(
    tokenizer: Tokenizer, tokens: Tensor, cond: Cond | None, precision: Precision = "auto"
) -> Tensor:
    """One piece of a batch; halved where it is too large, to tiles of one image in the end."""
    try:
        with half_on_cuda(tokens.device, precision):
            return (tokenizer.fast_decode or tokenizer.decode)(tokens, cond).float()
    except torch.OutOfMemoryError:
        if len(tokens) == 1 and tokenizer.decode_in_tiles is None:
            raise
    if len(tokens) > 1:
        halves = [
            paint(tokenizer, tokens[rows], cond[rows] if cond else None, precision)
            for rows in chunks(len(tokens), -(-len(tokens) // 2))
        ]
        return torch.cat(halves)
    assert tokenizer.decode_in_tiles is not None
    with half_on_cuda(tokens.device, precision):
        return tokenizer.decode_in_tiles(tokens).float()


def lay_out_for_cuda(tokenizer: Tokenizer) -> None:
    """Keep convolutions with channels last: their weights for good, and whatever reaches them.

    CUDA's own group norm gives its result with channels first. Compiled, turning it costs nothing.
    """
    if tokenizer.is_laid_out:
        return
    tokenizer.to(memory_format=torch.channels_last)
    for module in tokenizer.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(with_channels_last)
    tokenizer.is_laid_out = True


def with_channels_last(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """An image, turned if it has to be."""
    return (inputs[0].contiguous(memory_format=torch.channels_last),)


def compile_decoder(tokenizer: Tokenizer, say: Say = lambda line: None) -> None:
    """Let `decode` run compiled from now on: a norm, its activation and layout are one kernel."""
    if not isinstance(tokenizer.fast_decode, Compiled):
        if next(tokenizer.parameters(), torch.empty(0)).is_cuda:
            lay_out_for_cuda(tokenizer)
        tokenizer.fast_decode = compiled(tokenizer.decode, say, dynamic=False)
