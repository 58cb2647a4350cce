"""Tensors that several ranks wrote, each the rows it held: `NAME-00000-of-00008.safetensors`.

Any number of ranks reads them again, one included: a rank takes the rows that it needs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dimo_cli.engine.sharding import is_sharded, local, own_rows
from dimo_cli.files.writing import whole_file

NUMBER = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")


def write_piece(
    folder: Path, name: str, tensors: Mapping[str, Tensor], rank: int, world: int
) -> Path:
    """Write one rank's rows of some tensors."""
    path = folder / f"{name}-{rank:05d}-of-{world:05d}.safetensors"
    with whole_file(path) as file:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file)
    return path


def sharded_part(network: nn.Module) -> dict[str, Tensor]:
    """This rank's rows of the sharded weights of a network."""
    state = network.state_dict()
    return {name: local(tensor) for name, tensor in state.items() if is_sharded(tensor)}


def whole_part(network: nn.Module) -> dict[str, Tensor]:
    """The weights of a network that every rank holds whole."""
    state = network.state_dict()
    return {name: tensor.contiguous() for name, tensor in state.items() if not is_sharded(tensor)}


class Pieces:
    """All pieces of a name in a folder; none where it was written whole."""

    def __init__(self, folder: Path, name: str) -> None:
        found = sorted(folder.glob(f"{name}-*-of-*.safetensors"))
        self.files = [path for path in found if NUMBER.search(path.name)]
        self.starts: dict[str, list[int]] = {}
        for path in self.files:
            with safe_open(path, "pt") as file:
                for key in file.keys():  # noqa: SIM118 - it is no mapping
                    starts = self.starts.setdefault(key, [0])
                    starts.append(starts[-1] + file.get_slice(key).get_shape()[0])

    def keys(self) -> set[str]:
        """The tensors that are here."""
        return set(self.starts)

    def read(self, key: str, like: Tensor) -> Tensor:
        """The rows of a tensor that this rank holds of `like`."""
        rows, parts = own_rows(like), []
        starts = self.starts[key]
        if starts[-1] != len(like):
            raise RuntimeError(f"{key} has {starts[-1]} rows instead of {len(like)}")
        for path, (start, stop) in zip(self.files, pairwise(starts), strict=True):
            low, high = max(rows.start, start), min(rows.stop, stop)
            if low < high:
                with safe_open(path, "pt") as file:
                    parts.append(file.get_slice(key)[low - start : high - start])
        return torch.cat(parts) if parts else local(like).new_empty(local(like).shape)

    def moments(self, index: int, parameter: Tensor) -> dict[str, Tensor]:
        """What of the state of an optimizer is here, for one of its parameters."""
        wanted = f"{index}."
        keys = [key for key in sorted(self.starts) if key.startswith(wanted)]
        return {key.removeprefix(wanted): self.read(key, parameter) for key in keys}


@torch.no_grad()
def fill(network: nn.Module, whole: Mapping[str, Tensor], pieces: Pieces) -> None:
    """Load a network's weights, strictly, from whole tensors and pieces of others."""
    target = network.state_dict()
    if not (pieces.keys() or any(is_sharded(tensor) for tensor in target.values())):
        network.load_state_dict(whole)
        return
    if set(target) != set(whole) | pieces.keys():
        different = sorted(set(target) ^ (set(whole) | pieces.keys()))
        raise RuntimeError(f"missing or unexpected: {', '.join(different[:3])}")
    for name, tensor in target.items():
        found = whole[name][own_rows(tensor)] if name in whole else pieces.read(name, tensor)
        local(tensor).copy_(found)
