"""`dimo data encode` as a user meets it."""

import json
import os
from dataclasses import replace

import pytest
import torch

from dimo_cli.data import shards
from dimo_cli.data.encode import encode
from dimo_cli.data.images import open_source
from dimo_cli.data.shards import TokenDataset
from dimo_cli.errors import SpecError
from dimo_cli.files.locking import locked
from dimo_cli.specs.data import EncodeSpec
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.teachers.digits import training_tokens
from tests.helpers.pictures import archive, captioned_folder, class_folder, odd_pictures

DIGITS = ("--preset", "digits", "--out", "tokens")


def document(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_folder_of_digits_becomes_their_tokens(dimo, tmp_path, teacher):
    order = class_folder(tmp_path / "photos", 25)
    found = document(dimo("data", "encode", "photos", *DIGITS, "--shard-size", "10", "--json"))
    assert (found["images"], found["shards"], found["shards_kept"]) == (25, 3, 0)
    assert found["finished"]
    dataset = TokenDataset.open(tmp_path / "tokens", teacher)
    tokens, labels = dataset.rows(torch.arange(25))
    expected, expected_labels = training_tokens()
    assert torch.equal(tokens, expected[order])
    assert torch.equal(labels, expected_labels[order])
    assert dataset.tokens[0].dtype == torch.uint8
    index = json.loads((tmp_path / "tokens" / "index.json").read_text())
    assert index["recipe"]["teacher"] == "digits"
    assert index["recipe"]["image_size"] == 8
    assert index["classes"]["seven"] == 7
    assert [shard["images"] for shard in index["shards"]] == [10, 10, 5]


def test_with_flips_each_image_is_followed_by_its_mirror_image(dimo, tmp_path, teacher):
    order = class_folder(tmp_path / "photos", 25)
    arguments = ("data", "encode", "photos", *DIGITS, "--shard-size", "10")
    found = document(dimo(*arguments, "--flips", "--json"))
    assert [shard["images"] for shard in found["index"]["shards"]] == [20, 20, 10]
    tokens, labels = TokenDataset.open(tmp_path / "tokens", teacher).rows(torch.arange(50))
    expected, expected_labels = training_tokens()
    assert torch.equal(tokens[::2], expected[order])
    mirrored = expected[order].view(-1, 8, 8).flip(-1).flatten(1)[..., None]
    assert torch.equal(tokens[1::2], mirrored)
    assert torch.equal(labels, expected_labels[order].repeat_interleave(2))
    again = dimo(*arguments)
    assert again.exit_code == 2
    assert "`flips` is True there and False now" in again.stderr


def test_a_second_call_makes_only_what_is_not_there(dimo, tmp_path):
    class_folder(tmp_path / "photos", 25)
    arguments = ("data", "encode", "photos", *DIGITS, "--shard-size", "10", "--json")
    first = document(dimo(*arguments))
    shards = sorted((tmp_path / "tokens").glob("*.safetensors"))
    times = [path.stat().st_mtime_ns for path in shards]
    shards[1].unlink()
    (tmp_path / "tokens" / "index.json").unlink()
    second = document(dimo(*arguments))
    assert second["shards_kept"] == 2
    assert second["index"] == first["index"], "the shard came back as it was"
    after = [path.stat().st_mtime_ns for path in shards]
    assert [old == new for old, new in zip(times, after, strict=True)] == [True, False, True]
    shards[2].write_bytes(shards[2].read_bytes()[:100])
    assert document(dimo(*arguments))["shards_kept"] == 2
    TokenDataset.open(tmp_path / "tokens")


def test_other_images_of_the_same_names_are_encoded(dimo, tmp_path):
    class_folder(tmp_path / "photos", 6)
    arguments = ("data", "encode", "photos", *DIGITS, "--shard-size", "2", "--json")
    first = document(dimo(*arguments))
    one, *_, other = sorted((tmp_path / "photos").rglob("*.png"))
    other.write_bytes(one.read_bytes())
    os.utime(other, (9, 9))
    again = document(dimo(*arguments))
    assert again["shards_kept"] == 2
    assert again["index"]["shards"][:2] == first["index"]["shards"][:2]
    assert again["index"]["shards"][2] != first["index"]["shards"][2]


def test_shards_whose_images_changed_are_made_again(dimo, tmp_path):
    class_folder(tmp_path / "photos", 25)
    arguments = ("data", "encode", "photos", *DIGITS, "--shard-size", "10", "--json")
    document(dimo(*arguments))
    last = max((tmp_path / "photos" / "zero").glob("*.png"))
    last.unlink()
    found = document(dimo(*arguments))
    assert (found["images"], found["shards_kept"]) == (24, 2)
    assert len(TokenDataset.open(tmp_path / "tokens")) == 24


def test_another_recipe_is_refused_and_what_is_there_stays(dimo, tmp_path):
    class_folder(tmp_path / "photos", 5)
    document(dimo("data", "encode", "photos", *DIGITS, "--shard-size", "10", "--json"))
    result = dimo("data", "encode", "photos", *DIGITS, "--shard-size", "4")
    assert result.exit_code == 2
    assert "`shard_size` is 10 there and 4 now" in result.stderr
    assert len(TokenDataset.open(tmp_path / "tokens")) == 5


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nowhere",), 3, "no folder or file `nowhere`"),
        (("photos", "--batch", "0"), 2, "`--batch`"),
        (("photos", "--processes", "0"), 2, "`--processes`"),
        (("photos", "--shard-size", "-1"), 2, "`--shard-size`"),
        (("photos", "--preset", "digit"), 2, "Did you mean `digits`?"),
        (("photos", "--set", "teacher.naem=x"), 2, "teacher.naem"),
        (("captioned",), 2, "lies in no class folder"),
        (("strange",), 2, "There is no class `unheard-of`"),
        (("damaged", "--strict"), 2, "no readable image"),
    ],
)
def test_wrong_input_is_refused_with_a_sentence(dimo, tmp_path, arguments, code, message):
    class_folder(tmp_path / "photos", 3)
    captioned_folder(tmp_path / "captioned", 3)
    class_folder(tmp_path / "strange", 3)
    (tmp_path / "strange" / "one").rename(tmp_path / "strange" / "unheard-of")
    class_folder(tmp_path / "damaged", 3)
    (tmp_path / "damaged" / "one" / "0001.png").write_bytes(b"\x89PNG")
    source, *flags = arguments
    usual = DIGITS[2:] if "--preset" in flags else DIGITS
    result = dimo("data", "encode", source, *usual, *flags)
    assert result.exit_code == code
    assert message in result.stderr
    assert not (tmp_path / "tokens" / "index.json").exists()


def test_a_damaged_image_loses_no_finished_shard(dimo, tmp_path):
    class_folder(tmp_path / "photos", 12)
    last = max((tmp_path / "photos" / "zero").glob("*.png"))
    whole = last.read_bytes()
    last.write_bytes(whole[:30])
    arguments = ("data", "encode", "photos", *DIGITS, "--shard-size", "4", "--strict")
    assert dimo(*arguments).exit_code == 2
    last.write_bytes(whole)
    assert document(dimo(*arguments, "--json"))["shards_kept"] == 2


def spoil(folder, *names):
    """Pictures in place of others that hide something."""
    odd = odd_pictures()
    for name, content in zip(names, odd.values(), strict=False):
        (folder / name).write_bytes(content[0])


def test_pictures_that_cannot_be_encoded_are_skipped_and_listed(dimo, tmp_path, teacher):
    order = class_folder(tmp_path / "photos", 25)
    spoil(tmp_path / "photos", "one/0001.png", "zero/0000.png", "two/0002.png")
    result = dimo("data", "encode", "photos", *DIGITS, "--shard-size", "10", "--json")
    found = document(result)
    assert (found["images"], found["skipped"], found["finished"]) == (22, 3, True)
    assert "Skipped 3 images: `one/0001.png`: more than 8 bits per channel" in result.stderr
    assert "tokens/skipped.jsonl` lists all" in " ".join(result.stderr.split())
    listed = (tmp_path / "tokens" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(listed[0]) == {
        "image": "one/0001.png",
        "reason": "more than 8 bits per channel",
    }
    assert len(listed) == 3
    dataset = TokenDataset.open(tmp_path / "tokens", teacher)
    kept = [number for number in order if number > 2]
    tokens, labels = dataset.rows(torch.arange(22))
    assert torch.equal(tokens, training_tokens()[0][kept])
    assert torch.equal(labels, training_tokens()[1][kept])


def test_a_skipped_picture_that_was_mended_is_encoded_by_the_same_command(dimo, tmp_path):
    class_folder(tmp_path / "photos", 25)
    whole = (tmp_path / "photos" / "one" / "0001.png").read_bytes()
    spoil(tmp_path / "photos", "one/0001.png", "two/0002.png")
    arguments = ("data", "encode", "photos", *DIGITS, "--shard-size", "10", "--json")
    assert document(dimo(*arguments))["skipped"] == 2
    again = document(dimo(*arguments))
    assert (again["skipped"], again["shards_kept"]) == (2, 3)
    strict = dimo(*arguments, "--strict")
    assert strict.exit_code == 2
    assert "cannot be encoded" in json.loads(strict.stdout)["error"]
    for name in ("one/0001.png", "two/0002.png"):
        (tmp_path / "photos" / name).write_bytes(whole)
    found = document(dimo(*arguments))
    assert (found["images"], found["skipped"]) == (25, 0)
    assert not (tmp_path / "tokens" / "skipped.jsonl").exists()
    assert len(TokenDataset.open(tmp_path / "tokens")) == 25


def test_where_nothing_can_be_encoded_the_command_fails(dimo, tmp_path):
    class_folder(tmp_path / "photos", 2)
    spoil(tmp_path / "photos", "one/0001.png", "zero/0000.png")
    result = dimo("data", "encode", "photos", *DIGITS)
    assert result.exit_code == 2
    assert "None of the 2 images of `photos` can be encoded: `one/0001.png`" in result.stderr
    assert not (tmp_path / "tokens" / "index.json").exists()


def test_a_shard_of_skipped_pictures_alone_is_no_hindrance(dimo, tmp_path, teacher):
    class_folder(tmp_path / "photos", 6)
    spoil(tmp_path / "photos", "five/0005.png", "four/0004.png")
    found = document(dimo("data", "encode", "photos", *DIGITS, "--shard-size", "2", "--json"))
    assert [shard["images"] for shard in found["index"]["shards"]] == [2, 2]
    assert dimo("check", "tokens").exit_code == 0
    assert len(TokenDataset.open(tmp_path / "tokens", teacher)) == 4


def test_what_a_killed_process_left_is_tidied_up(dimo, tmp_path):
    class_folder(tmp_path / "photos", 5)
    (tmp_path / "tokens").mkdir()
    for name in (
        ".shard-00000.safetensors.99999999-0af3.dimo.tmp",
        ".index.json.99999999-0af3.dimo.tmp",
    ):
        (tmp_path / "tokens" / name).write_bytes(b"half of it")
    document(dimo("data", "encode", "photos", *DIGITS, "--json"))
    names = sorted(path.name for path in (tmp_path / "tokens").iterdir())
    assert names == ["index.json", "shard-00000.safetensors"]


def test_a_shard_that_was_not_written_whole_leaves_nothing(tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        shards.write_shard(tmp_path / "a.safetensors", torch.zeros(1), torch.zeros(1), {})
    assert list(tmp_path.iterdir()) == []


def test_one_job_at_a_time_writes_into_a_folder(dimo, tmp_path, monkeypatch):
    class_folder(tmp_path / "photos", 10)
    out = tmp_path / "tokens"
    arguments = ("data", "encode", "photos", *DIGITS, "--shard-size", "3", "--json")
    with locked(out, shared=True):  # a rank of a launcher's job
        alone = dimo(*arguments)
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        assert dimo(*arguments).exit_code == 0, "another rank of it"
        with locked(out, ".lock-1"):
            twice = dimo(*arguments)
    for refused in (alone, twice):
        assert refused.exit_code == 2
        assert "`tokens` is in use by process" in refused.stderr
    with locked(out):
        assert dimo(*arguments).exit_code == 2, "a rank beside a process of its own"
    assert not list(out.glob(".lock*"))


def test_archives_are_encoded_too(dimo, tmp_path):
    archive(tmp_path / "digits.tar", 7)
    document(dimo("data", "encode", "digits.tar", *DIGITS, "--batch", "3", "--json"))
    tokens, labels = TokenDataset.open(tmp_path / "tokens").rows(torch.arange(7))
    assert torch.equal(tokens, training_tokens()[0][:7])
    assert torch.equal(labels, training_tokens()[1][:7])


def test_captions_go_into_a_file_beside_each_shard(tmp_path, teacher):
    captioned_folder(tmp_path / "captioned", 5)
    reads_prompts = replace(teacher, takes_prompts=True)
    spec = EncodeSpec(source="captioned", shard_size=3)
    images = open_source(str(tmp_path / "captioned"), captions=True)
    out = tmp_path / "tokens"
    source = TeacherSource(name="digits")
    encode(spec, images, reads_prompts, source, out)
    dataset = TokenDataset.open(out, reads_prompts)
    assert dataset.rows(torch.tensor([4]))[1] == ["a four, “ünïcode”"]
    (out / "shard-00001.json").unlink()
    assert encode(spec, images, reads_prompts, source, out).kept == 1
    assert len(TokenDataset.open(out)) == 5


def test_processes_of_a_launcher_share_the_shards(dimo, tmp_path, monkeypatch):
    class_folder(tmp_path / "photos", 10)
    arguments = ("data", "encode", "photos", *DIGITS, "--shard-size", "3", "--json")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    first = document(dimo(*arguments))
    assert not first["finished"]
    names = sorted(path.name for path in (tmp_path / "tokens").iterdir())
    assert names == ["shard-00001.safetensors", "shard-00003.safetensors"]
    monkeypatch.setenv("RANK", "0")
    assert document(dimo(*arguments))["finished"]
    assert len(TokenDataset.open(tmp_path / "tokens")) == 10
    refused = dimo(*arguments, "--processes", "2")
    assert refused.exit_code == 2
    assert "a launcher started 2 processes already" in refused.stderr


def test_own_processes_make_the_same_shards(tmp_path, teacher):
    class_folder(tmp_path / "photos", 10)
    images = open_source(str(tmp_path / "photos"), captions=False)
    source, counted = TeacherSource(name="digits"), []
    for processes in (1, 2):
        spec = EncodeSpec(source="photos", shard_size=3, processes=processes)
        out = tmp_path / str(processes)
        assert encode(spec, images, teacher, source, out, counted.append).index is not None
    assert sum(counted) == 20
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes()
    (tmp_path / "photos" / "one" / "0001.png").write_bytes(b"")
    spec = EncodeSpec(source="photos", shard_size=2, processes=2, strict=True)
    with pytest.raises(SpecError, match=r"one/0001.png` cannot be encoded: no readable") as caught:
        encode(spec, images, teacher, source, tmp_path / "3")
    assert "finished shards are kept" in caught.value.hint


def test_the_help_page_has_examples(dimo):
    page = dimo("data", "encode", "--help")
    assert "dimo data encode" in page.stdout.split("Examples:")[1]
