"""Weights in several files are those that their index names, and no others."""

import pytest
import torch

from dimo_cli.errors import MissingError
from dimo_cli.hub.published import HubFile
from dimo_cli.hub.shards import is_index, read_shards, shards_of

INDEX = HubFile("you/large", "weights/model.safetensors.index.json")
MAP = {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"}
FILES = {"weights/1.safetensors": ("a", "c"), "weights/2.safetensors": ("b",)}


def read(file):
    return {name: torch.full((1,), ord(name)) for name in FILES[file.path]}


def test_files_lie_beside_their_index_and_each_is_read_once():
    assert is_index(INDEX)
    assert not is_index(HubFile("you/large", "model.safetensors"))
    assert {file.path: names for file, names in shards_of(INDEX, {"weight_map": MAP}).items()} == {
        "weights/1.safetensors": {"a", "c"}, "weights/2.safetensors": {"b"}}  # fmt: skip
    assert {file.path for file in shards_of(HubFile("you/l", INDEX.path[8:]), {"weight_map": MAP})
            } == {"1.safetensors", "2.safetensors"}  # fmt: skip
    found = read_shards(INDEX, {"weight_map": MAP}, read)
    assert {name: tensor.item() for name, tensor in found.items()} == {"a": 97, "b": 98, "c": 99}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "it has no `weight_map`"),
        ({"weight_map": []}, "it has no `weight_map`"),
        ({"weight_map": {"a": "../other.safetensors"}}, "no safetensors file beside it"),
        ({"weight_map": {"a": 3}}, "no safetensors file beside it"),
        ({"weight_map": {"a": "model.bin"}}, "no safetensors file beside it"),
        ({"weight_map": {"a": "2.safetensors"}}, "only one of them has `a`"),
        ({"weight_map": {"a": "1.safetensors"}}, "only one of them has `c`"),
    ],
)
def test_an_index_that_does_not_fit_its_files_is_refused(content, said):
    with pytest.raises(MissingError, match=said):
        read_shards(INDEX, content, read)
