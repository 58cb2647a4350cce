"""What the embedded text teachers share beside networks: their weights' files, and captions."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar, overload

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dimo_cli.teachers.stored import restored, rounded, scale_name

N = TypeVar("N", bound=nn.Module)


def in_bytes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in a quarter of their size: int8 with a scale for each row, and vectors in half."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if tensor.ndim == 1:
            found[name] = tensor.half()
            continue
        values, scale = rounded(tensor.flatten(1), "int8")
        assert scale is not None
        found |= {name: values.view_as(tensor), scale_name(name): scale.squeeze(1)}
    return found


def in_numbers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a file holds, as a network has it."""
    found, scales = {}, set(map(scale_name, weights))
    for name, tensor in weights.items():
        if (scale := weights.get(scale_name(name))) is not None:
            found[name] = restored(tensor.flatten(1), scale[:, None], torch.float32).view_as(tensor)
        elif name not in scales:
            found[name] = tensor.float()
    return found


def fill_from(network: N, path: Path) -> N:
    """The network with the weights of a file, frozen."""
    network.load_state_dict(in_numbers(load_file(path)))
    network.requires_grad_(False).eval()
    return network


class Captions(Sequence[str]):
    """Random captions of a world: what students train on when nobody says otherwise.

    They are made up when the first is read: an image of a prompt needs none.
    """

    def __init__(self, size: int, seed: int, invent: Callable[[random.Random], str]) -> None:
        self.size, self.seed, self.invent = size, seed, invent

    @cached_property
    def lines(self) -> list[str]:
        """All of them."""
        rng = random.Random(self.seed)
        return [self.invent(rng) for _ in range(self.size)]

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self.lines[index]
