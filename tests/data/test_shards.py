"""Folders of token shards: written whole, read where they lie, refused where damaged."""

import json

import pytest
import torch

from dimo_cli.data.shards import (
    TokenDataset,
    builtin_dataset,
    shard_path,
    token_dtype,
    write_json,
    write_shard,
)
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.files.writing import file_sha256
from dimo_cli.specs.data import DatasetIndex, Recipe, ShardEntry
from dimo_cli.teachers.registry import load_skeleton


def write_folder(folder, sizes, captions=False):
    recipe = Recipe(
        teacher="digits",
        revision="1",
        image_size=8,
        resize="-",
        length=4,
        groups=2,
        codes=300,
        condition="captions" if captions else "labels",
        shard_size=max(sizes),
    )
    start, entries = 0, []
    for number, size in enumerate(sizes):
        values = torch.arange(start, start + size)
        tokens = values[:, None, None].expand(-1, 4, 2).to(torch.int16)
        condition = [f"image {value}" for value in values.tolist()] if captions else values * 2
        path = shard_path(folder, number)
        write_shard(path, tokens, condition, {"recipe": recipe.model_dump(mode="json")})
        entries.append(ShardEntry(file=path.name, images=size, sha256=file_sha256(path)))
        start += size
    index = DatasetIndex(dimo="0", source="-", images=start, recipe=recipe, shards=tuple(entries))
    write_json(folder / "index.json", index.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("codes", "dtype"),
    [(17, torch.uint8), (256, torch.uint8), (257, torch.int16), (8192, torch.int16),
     (2**15, torch.int16), (2**15 + 1, torch.int32), (2**18, torch.int32)],
)  # fmt: skip
def test_tokens_take_the_smallest_integers_that_hold_them(codes, dtype):
    assert token_dtype(codes) == dtype


@pytest.mark.parametrize("captions", [False, True])
def test_every_row_comes_back_with_what_belongs_to_it(tmp_path, captions):
    write_folder(tmp_path, [5, 5, 2], captions)
    dataset = TokenDataset.open(tmp_path, verify=True)
    assert len(dataset) == 12
    assert dataset.has_captions == captions
    indices = torch.tensor([11, 0, 4, 5, 9, 10, 0])
    tokens, conditions = dataset.rows(indices)
    assert tokens.dtype == torch.long
    assert torch.equal(tokens, indices[:, None, None].expand(-1, 4, 2))
    if captions:
        assert conditions == [f"image {index}" for index in indices.tolist()]
    else:
        assert torch.equal(conditions, indices * 2)
    assert not list(tmp_path.glob(".*")), "no temporary file is left"


def test_draws_are_uniform_and_follow_the_generator(tmp_path):
    write_folder(tmp_path, [3, 1])
    dataset = TokenDataset.open(tmp_path)
    tokens, labels = dataset.draw(4000, torch.Generator().manual_seed(1))
    assert torch.equal(tokens[:, 0, 0] * 2, labels)
    counts = torch.bincount(tokens[:, 0, 0], minlength=4)
    assert (counts - 1000).abs().max() < 150
    again, _ = dataset.draw(4000, torch.Generator().manual_seed(1))
    assert torch.equal(tokens, again)


def test_damage_is_found(tmp_path):
    write_folder(tmp_path, [4, 4])
    path = shard_path(tmp_path, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(MissingError, match=r"shard-00001.safetensors` is missing or damaged"):
        TokenDataset.open(tmp_path)
    path.write_bytes(whole[:-8] + b"\1" * 8)
    TokenDataset.open(tmp_path)
    with pytest.raises(MissingError, match="damaged"):
        TokenDataset.open(tmp_path, verify=True)
    path.unlink()
    with pytest.raises(MissingError, match="missing"):
        TokenDataset.open(tmp_path)


def test_lost_captions_are_found(tmp_path):
    write_folder(tmp_path, [4], captions=True)
    captions = shard_path(tmp_path, 0).with_suffix(".json")
    captions.write_text(json.dumps(["one"]))
    with pytest.raises(MissingError, match="damaged"):
        TokenDataset.open(tmp_path)
    captions.unlink()
    with pytest.raises(MissingError, match="damaged"):
        TokenDataset.open(tmp_path)


def test_a_folder_without_a_valid_index_says_what_to_do(tmp_path):
    with pytest.raises(MissingError, match="holds no encoded images"):
        TokenDataset.open(tmp_path / "nothing")
    write_folder(tmp_path, [2])
    index = tmp_path / "index.json"
    index.write_text(index.read_text().replace('"images"', '"pictures"'))
    with pytest.raises(MissingError, match="no valid index"):
        TokenDataset.open(tmp_path)
    index.unlink()
    with pytest.raises(MissingError, match="not finished") as caught:
        TokenDataset.open(tmp_path)
    assert "finished shards are kept" in caught.value.hint


def test_images_of_another_teacher_are_refused(tmp_path, teacher):
    write_folder(tmp_path, [2])
    with pytest.raises(SpecError, match="4 x 2 tokens each, but `digits` has 64 x 1"):
        TokenDataset.open(tmp_path, teacher)
    with pytest.raises(SpecError, match="encoded for `digits`, not for `maskgit`"):
        TokenDataset.open(tmp_path, load_skeleton("maskgit"))
    captions = TokenDataset([torch.zeros(1, 64, 1)], [["a caption"]])
    with pytest.raises(SpecError, match="have captions, but `digits` needs labels"):
        captions.check(teacher)


def test_the_embedded_teacher_brings_its_images_along(teacher):
    dataset = builtin_dataset("digits")
    dataset.check(teacher)
    tokens, labels = dataset.draw(5, torch.Generator().manual_seed(0))
    assert len(dataset) == 1797
    assert tokens.shape == (5, 64, 1)
    assert labels.shape == (5,)
    with pytest.raises(SpecError, match="No real images ship with `maskgit`"):
        builtin_dataset("maskgit")


def test_images_without_conditions_are_a_mistake():
    with pytest.raises(ValueError, match="2 images, but 1 conditions"):
        TokenDataset([torch.zeros(2, 4, 1)], [torch.zeros(1)])
