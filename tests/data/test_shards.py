"""Folders of token shards: written whole, read where they lie, refused where damaged."""

import json

import pytest
import torch
from safetensors.torch import save_file

from dimo_cli.data.encode import entry_of
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
from dimo_cli.specs.teacher import TeacherSpec
from dimo_cli.teachers.emoji.world import held_out, read
from dimo_cli.teachers.registry import load_skeleton


def recipe_of(codes, captions=False, shard_size=4):
    return Recipe(
        teacher="digits",
        revision="1",
        image_size=8,
        resize="-",
        length=4,
        groups=2,
        codes=codes,
        condition="captions" if captions else "labels",
        shard_size=shard_size,
    )


def write_folder(folder, sizes, captions=False):
    recipe = recipe_of(300, captions, max(sizes))
    start, entries = 0, []
    for number, size in enumerate(sizes):
        values = torch.arange(start, start + size)
        tokens = values[:, None, None].expand(-1, 4, 2).to(torch.int16)
        condition = [f"image {value}" for value in values.tolist()] if captions else values * 2
        path = shard_path(folder, number)
        write_shard(path, tokens, condition, {"recipe": recipe.model_dump(mode="json")})
        entries.append(entry_of(path, size, recipe))
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
    dataset = TokenDataset.open(tmp_path)
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
    path.unlink()
    with pytest.raises(MissingError, match="missing or damaged: it cannot be read"):
        TokenDataset.open(tmp_path)


@pytest.mark.parametrize("captions", [False, True])
def test_a_single_flipped_byte_is_found_before_anything_trains_on_it(tmp_path, captions):
    write_folder(tmp_path, [4, 4], captions)
    for path in sorted(tmp_path.glob("shard-00001.*")):
        whole = path.read_bytes()
        for place in (len(whole) - 1, len(whole) - 20):
            spoiled = bytearray(whole)
            spoiled[place] ^= 1
            path.write_bytes(spoiled)
            with pytest.raises(MissingError, match=f"{path.name}` is missing or damaged: its hash"):
                TokenDataset.open(tmp_path)
        path.write_bytes(whole)
    assert len(TokenDataset.open(tmp_path)) == 8


def test_lost_captions_are_found(tmp_path):
    write_folder(tmp_path, [4], captions=True)
    captions = shard_path(tmp_path, 0).with_suffix(".json")
    captions.write_text(json.dumps(["one"]))
    with pytest.raises(MissingError, match="damaged"):
        TokenDataset.open(tmp_path)
    captions.unlink()
    with pytest.raises(MissingError, match="damaged"):
        TokenDataset.open(tmp_path)


def test_captions_of_an_index_that_knows_no_hash_of_them_are_counted(tmp_path):
    write_folder(tmp_path, [4], captions=True)
    index = json.loads((tmp_path / "index.json").read_text())
    index["shards"][0].pop("captions_sha256")
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert len(TokenDataset.open(tmp_path)) == 4
    shard_path(tmp_path, 0).with_suffix(".json").write_text(json.dumps(["one"]))
    with pytest.raises(MissingError, match="captions are not one text for each image"):
        TokenDataset.open(tmp_path)


@pytest.mark.parametrize("codes", [256, 2**8 + 1, 2**15, 2**16])
def test_the_last_code_is_a_code(tmp_path, codes):
    dtype = token_dtype(codes)
    last = torch.full((2, 4, 2), codes - 1, dtype=dtype)
    write_one(tmp_path, {"tokens": last, "labels": torch.zeros(2, dtype=torch.int32)}, codes)
    tokens, _ = TokenDataset.open(tmp_path).rows(torch.arange(2))
    assert tokens.unique().tolist() == [codes - 1]
    write_one(tmp_path, {"tokens": last, "labels": torch.zeros(2, dtype=torch.int32)}, codes - 1)
    with pytest.raises(MissingError, match=f"not among the {codes - 1:,} of its recipe"):
        TokenDataset.open(tmp_path)


ODD = (
    *(torch.bool, torch.float16, torch.bfloat16, torch.float64, torch.complex64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64),
)


@pytest.mark.parametrize("dtype", ODD, ids=str)
@pytest.mark.parametrize("which", ["tokens", "labels"])
def test_a_shard_of_another_type_is_refused_by_a_sentence(tmp_path, dtype, which):
    tensors = {"tokens": torch.zeros(2, 4, 2), "labels": torch.zeros(2)}
    tensors = {name: tensor.to(torch.int32) for name, tensor in tensors.items()}
    tensors[which] = torch.zeros(tensors[which].shape).to(dtype)
    write_one(tmp_path, tensors, 16)
    with pytest.raises(MissingError, match=r"is missing or damaged: its (tokens|labels)"):
        TokenDataset.open(tmp_path)


@pytest.mark.parametrize("shape", [(0, 4, 2), (2, 4), (2, 4, 3), (3, 4, 2)])
def test_a_shard_of_another_shape_is_refused_by_a_sentence(tmp_path, shape):
    tensors = {"tokens": torch.zeros(shape, dtype=torch.uint8), "labels": torch.arange(2)}
    write_one(tmp_path, tensors, 16)
    with pytest.raises(MissingError, match="its tokens have the shape"):
        TokenDataset.open(tmp_path)


def write_one(folder, tensors, codes):
    """A finished folder of one shard with two images, whatever its tensors are."""
    path = shard_path(folder, 0)
    save_file(tensors, path)
    recipe = recipe_of(codes)
    entry = ShardEntry(file=path.name, images=2, sha256=file_sha256(path))
    index = DatasetIndex(dimo="0", source="-", images=2, recipe=recipe, shards=(entry,))
    write_json(folder / "index.json", index.model_dump(mode="json"))


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


def test_the_real_pictures_of_emoji_come_with_captions_that_it_reads():
    dataset = builtin_dataset("emoji")
    dataset.check(load_skeleton(TeacherSpec(name="emoji")))
    tokens, captions = dataset.draw(64, torch.Generator().manual_seed(0))
    assert tokens.shape == (64, 64, 1)
    scenes = [read(caption) for caption in captions]
    assert not any(scene.left_out for scene in scenes)
    assert not {(one.scene.thing, one.scene.style) for one in scenes} & held_out()


def test_images_without_conditions_are_a_mistake():
    with pytest.raises(ValueError, match="2 images, but 1 conditions"):
        TokenDataset([torch.zeros(2, 4, 1)], [torch.zeros(1)])
