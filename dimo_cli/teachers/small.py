"""What the embedded text teachers share beside networks: their weights' files, and captions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar, overload

from safetensors.torch import load_file
from torch import nn

from dimo_cli.teachers.stored import in_numbers

N = TypeVar("N", bound=nn.Module)


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
