"""Weights in several files, and the index that says which tensor is in which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from dimo_cli.errors import MissingError
from dimo_cli.hub.published import HubFile, StateDict

INDEX_SUFFIX = ".safetensors.index.json"


def is_index(file: HubFile) -> bool:
    """Whether a file is an index of others."""
    return file.path.endswith(INDEX_SUFFIX)


def shards_of(index: HubFile, content: Mapping[str, Any]) -> dict[HubFile, set[str]]:
    """The files of an index, which lie beside it, each with the tensors that it must hold."""
    names = content.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise broken(index, "it has no `weight_map`")
    folder = index.path.rpartition("/")[0]
    found: dict[HubFile, set[str]] = {}
    for tensor, name in names.items():
        if not isinstance(name, str) or "/" in name or not name.endswith(".safetensors"):
            raise broken(index, f"{str(name)[:60]!r} is no safetensors file beside it")
        path = f"{folder}/{name}" if folder else name
        found.setdefault(replace(index, path=path), set()).add(tensor)
    return found


def read_shards(
    index: HubFile, content: Mapping[str, Any], read: Callable[[HubFile], StateDict]
) -> StateDict:
    """All tensors of an index's files; a file that holds others than it says is refused."""
    weights: StateDict = {}
    for file, names in shards_of(index, content).items():
        part = read(file)
        if part.keys() != names:
            odd = sorted(part.keys() ^ names)[0]
            raise MissingError(
                f"`{file}` and `{index}` do not go together: only one of them has `{odd}`.",
                "Are both of the same revision?",
            )
        weights |= part
    return weights


def broken(index: HubFile, reason: str) -> MissingError:
    """What is said of an index that names no files."""
    return MissingError(
        f"`{index}` is no index of weights: {reason}.", f"Is it the file of `{index.repo}`?"
    )
