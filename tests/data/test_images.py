"""Finding images, what belongs to them, and bringing them to size."""

import errno
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from dimo_cli.data.images import class_labels, open_source
from dimo_cli.data.source import prepare
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.teachers.registry import load_skeleton
from tests.helpers.pictures import archive, captioned_folder, class_folder, pictures


@pytest.mark.parametrize(("width", "height"), [(64, 64), (100, 64), (64, 101), (300, 170)])
def test_images_are_resized_by_the_shorter_side_and_cropped_in_the_middle(width, height):
    ramp = np.zeros((height, width, 3), dtype=np.uint8)
    ramp[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    ramp[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    image = prepare(Image.fromarray(ramp), 32)
    assert image.shape == (3, 32, 32)
    assert image.dtype == torch.float32
    assert image[0].mean().abs() < 0.03, "the middle of the ramp is in the middle"
    assert image[1].mean().abs() < 0.03
    spans = [(image[0, 0, -1] - image[0, 0, 0]).item(), (image[1, -1, 0] - image[1, 0, 0]).item()]
    shorter = min(width, height)
    assert spans == pytest.approx([2 * shorter / width, 2 * shorter / height], abs=0.13)


def test_the_resize_is_pils_antialiased_bicubic():
    noise = np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8)
    expected = (
        Image.fromarray(noise).resize((16, 24), Image.Resampling.BICUBIC).crop((0, 4, 16, 20))
    )
    expected = torch.from_numpy(np.array(expected)).permute(2, 0, 1) / 127.5 - 1
    assert torch.equal(prepare(Image.fromarray(noise), 16), expected)


def test_images_of_the_right_size_are_left_alone_and_small_ones_grow():
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    same = prepare(Image.fromarray(noise), 16)
    assert torch.equal(
        ((same + 1) * 127.5).round().byte().permute(1, 2, 0), torch.from_numpy(noise)
    )
    assert prepare(Image.new("RGB", (5, 3)), 16).shape == (3, 16, 16)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA"])
def test_images_of_every_mode_become_rgb(mode):
    assert prepare(Image.new("L", (9, 9)).convert(mode), 8).shape == (3, 8, 8)


def test_class_folders_are_listed_in_order_with_linked_ones(tmp_path):
    order = class_folder(tmp_path / "digits", 12)
    (tmp_path / "digits" / "one" / ".DS_Store").write_bytes(b"")
    (tmp_path / "links").mkdir()
    for folder in (tmp_path / "digits").iterdir():
        (tmp_path / "links" / folder.name).symlink_to(folder)
    for root in ("digits", "links"):
        source = open_source(str(tmp_path / root), captions=False)
        assert [int(name[-8:-4]) for name in source.names] == order
        assert source.words == [name.split("/")[0] for name in source.names]
        assert source.others == 1
        assert source.image(0, 8).shape == (3, 8, 8)


def test_captions_come_from_a_list_and_from_files_beside(tmp_path):
    captioned_folder(tmp_path, 6)
    source = open_source(str(tmp_path), captions=True)
    assert len(source) == 6
    assert source.words[0] == "a zero, “ünïcode”"
    assert source.words[1] == "a one, “ünïcode”"
    assert source.others == 0


def test_archives_give_classes_and_captions(tmp_path):
    archive(tmp_path / "b.tar", 4)
    archive(tmp_path / "a.tar", 3, lambda index: ("json", f'{{"label": {index}}}'))
    source = open_source(str(tmp_path), captions=False)
    assert source.words == ["0", "1", "2", "0", "1", "2", "3"]
    assert source.names[0] == "a.tar:train/0000.png"
    images, _ = pictures(4)
    assert torch.equal(source.image(6, 8), prepare(images[3], 8))
    archive(tmp_path / "c.tar", 2, lambda index: ("txt", f"a caption {index}\n"))
    assert open_source(str(tmp_path / "c.tar"), True).words == ["a caption 0", "a caption 1"]
    archive(tmp_path / "d.tar", 2, lambda index: ("json", '{"caption": "one of json"}'))
    assert open_source(str(tmp_path / "d.tar"), True).words == ["one of json"] * 2


def test_images_of_an_archive_that_was_replaced_are_others(tmp_path):
    for name in ("a.tar", "b.tar"):
        archive(tmp_path / name, 2)
    source = open_source(str(tmp_path), captions=False)
    before = source.marks(range(4))
    os.utime(tmp_path / "b.tar", (9, 9))
    after = source.marks(range(4))
    assert after[:2] == before[:2]
    assert after[2:] != before[2:]


@pytest.mark.parametrize(
    ("content", "captions", "message"),
    [
        (None, False, "no folder or file"),
        ({"readme.md": "x"}, False, "has no images"),
        ({"a.png": "x"}, False, "lies in no class folder, as 1 of 1"),
        ({"a.png": "x"}, True, "has no caption, as 1 of 1"),
        ({"a.png": "x", "captions.jsonl": '{"file": "b.png", "caption": "c"}'}, True, "`b.png`"),
        ({"a.png": "x", "captions.jsonl": "{}"}, True, "line 1 is not of the form"),
        ({"x.tar": "no archive"}, False, "no plain .tar file"),
    ],
)
def test_what_is_no_source_is_refused_with_a_sentence(tmp_path, content, captions, message):
    folder = tmp_path / "source"
    if content is not None:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    with pytest.raises((SpecError, MissingError), match=message):
        open_source(str(folder), captions)


def test_a_single_image_and_samples_without_a_class_are_refused(tmp_path):
    pictures(1)[0][0].save(tmp_path / "one.png")
    with pytest.raises(SpecError, match="single file"):
        open_source(str(tmp_path / "one.png"), False)
    archive(tmp_path / "c.tar", 2, lambda index: ("txt", "a caption"))
    with pytest.raises(SpecError, match=r"c.tar:train/0000` has no class"):
        open_source(str(tmp_path / "c.tar"), False)
    archive(tmp_path / "d.tar", 1, lambda index: ("json", "[1"))
    with pytest.raises(SpecError, match="no valid JSON"):
        open_source(str(tmp_path / "d.tar"), False)


def test_a_damaged_image_is_refused_by_name(tmp_path):
    class_folder(tmp_path, 3)
    broken = tmp_path / "one" / "0001.png"
    broken.write_bytes(broken.read_bytes()[:40])
    source = open_source(str(tmp_path), False)
    with pytest.raises(SpecError, match=r"one/0001.png` cannot be encoded: no readable image"):
        source.image(source.names.index("one/0001.png"), 8)


@pytest.mark.parametrize("gap", ["\u2028", "\x0b", "\x0c", "\x85"])
def test_captions_are_parted_by_line_ends_alone(tmp_path, gap):
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    lines = [json.dumps({"file": f"{n}.png", "caption": f"a{gap}{n}"}, ensure_ascii=False)
             for n in "ab"]  # fmt: skip
    (tmp_path / "captions.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert open_source(str(tmp_path), captions=True).words == [f"a{gap}a", f"a{gap}b"]
    (tmp_path / "captions.jsonl").unlink()
    for name in "ab":
        (tmp_path / f"{name}.txt").write_bytes(b"\xef\xbb\xbf" + f"a{gap}{name}\n".encode())
    assert open_source(str(tmp_path), captions=True).words == [f"a{gap}a", f"a{gap}b"]


def test_a_caption_that_is_no_text_is_refused_with_its_line(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "captions.jsonl").write_text(r'{"file": "a.png", "caption": "half \ud800"}')
    with pytest.raises(SpecError, match="line 1 is not of the form"):
        open_source(str(tmp_path), captions=True)


def test_a_failing_disk_is_no_broken_picture(tmp_path, monkeypatch):
    class_folder(tmp_path, 3)
    source = open_source(str(tmp_path), False)

    def fails(index):
        raise OSError(errno.EIO, "Input/output error", "0001.png")

    monkeypatch.setattr(source, "open", fails)
    with pytest.raises(OSError, match="Input/output"):
        source.image_or_reason(0, 8)


def test_class_words_are_numbers_ids_or_names(teacher):
    assert class_labels(["3", "0", "3"], teacher) == {"0": 0, "3": 3}
    assert class_labels(["two", "Seven"], teacher) == {"Seven": 7, "two": 2}
    imagenet = load_skeleton("maskgit")
    chosen = [imagenet.class_ids[index] for index in (999, 207)]
    assert set(class_labels(chosen, imagenet).values()) == {999, 207}


def test_other_class_words_count_in_sorted_order_if_there_is_one_for_each_class(teacher):
    letters = [f"folder-{letter}" for letter in "jihgfedcba"]
    labels = class_labels(letters, teacher)
    assert labels["folder-a"] == 0
    assert labels["folder-j"] == 9
    with pytest.raises(SpecError, match="has 9 classes and `digits` has 10"):
        class_labels(letters[1:], teacher)
    with pytest.raises(SpecError, match="Class 10 is beyond the 10 classes"):
        class_labels(["10", "1"], teacher)
