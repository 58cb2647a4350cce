"""Folders, zips and arrays of images: read in order, and nothing odd about them goes unsaid."""

import json
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from dimo_cli.data.folders import natural_order, open_images
from dimo_cli.data.images import open_source
from dimo_cli.data.pictures import Fit
from dimo_cli.errors import MissingError, SpecError
from tests.helpers.pictures import lying_on_its_side, odd_pictures, png

SIDE = 8


def pixels(number, side=SIDE):
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)


def picture(number=0, side=SIDE):
    return Image.fromarray(pixels(number, side))


def fill(folder, count, suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture(number).save(folder / f"{number}.{suffix}")
    return folder


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path / "images", 12)


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
        archive.writestr("__MACOSX/._0.png", b"not an image")
    return path


def everything(images, size=5):
    return torch.cat([batch.images for batch in images.batches(size)])


def expected(count):
    return torch.stack([torch.from_numpy(pixels(n)) for n in range(count)]).permute(0, 3, 1, 2)


# What is read


def test_images_come_in_the_order_of_their_numbers(folder):
    images = open_images(folder)
    batches = list(images.batches(5))
    assert [len(batch) for batch in batches] == [5, 5, 2]
    assert [batch.first for batch in batches] == [0, 5, 10]
    assert torch.equal(everything(images), expected(12))
    assert batches[0].images.dtype == torch.uint8
    assert batches[0].prompts == ()
    assert images.notes() == []


def test_order_is_by_leading_number_then_name_in_every_folder():
    names = ["b/10.png", "b/9.png", "a/2-x.png", "a/2-b.png", "a/x.png", "10/1.png", "9/1.png"]
    assert sorted(names, key=natural_order) == [
        "9/1.png",
        "10/1.png",
        "a/2-b.png",
        "a/2-x.png",
        "a/x.png",
        "b/9.png",
        "b/10.png",
    ]


@pytest.mark.parametrize("share", [(0, 4), (4, 9), (9, None), (3, 3)])
def test_a_process_reads_its_share_only(folder, share):
    images = open_images(folder)
    found = list(images.batches(2, *share))
    assert sum(len(batch) for batch in found) == (share[1] or 12) - share[0]
    if found:
        assert found[0].first == share[0]
        assert torch.equal(torch.cat([b.images for b in found]), expected(12)[slice(*share)])


def test_the_first_images_can_be_asked_for(folder):
    assert torch.equal(everything(open_images(folder, count=7)), expected(7))


def test_subfolders_hidden_files_and_other_files(folder):
    fill(folder / "deeper" / "still", 3)
    (folder / "._0.png").write_bytes(b"left by another system")
    (folder / "notes.md").write_text("not an image")
    assert len(open_images(folder)) == 15


def test_a_zip_is_as_good_as_a_folder(folder, tmp_path):
    images = open_images(zipped(folder, tmp_path / "images.zip"))
    assert torch.equal(everything(images), expected(12))


def test_what_has_no_name_in_a_zip_is_passed_over(folder, tmp_path):
    path = zipped(folder, tmp_path / "images.zip")
    whole = len(open_images(path))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("nameless.png", b"")
        archive.filelist[-1].filename = ""
    assert len(open_images(path)) == whole


@pytest.mark.parametrize("suffix", ["PNG", "bmp", "tif", "tiff", "ppm", "webp", "npy"])
def test_every_lossless_format_gives_the_same_bytes(tmp_path, suffix):
    for number in range(3):
        path = tmp_path / f"{number}.{suffix}"
        if suffix == "npy":
            np.save(path, pixels(number))
        else:
            picture(number).save(path, **({"lossless": True} if suffix == "webp" else {}))
    images = open_images(tmp_path)
    assert torch.equal(everything(images), expected(3))
    assert images.notes() == []


def test_adms_samples_are_images_too(tmp_path):
    array = np.stack([pixels(number) for number in range(12)])
    np.savez(tmp_path / "samples.npz", array, np.arange(12))
    assert torch.equal(everything(open_images(tmp_path / "samples.npz")), expected(12))
    assert torch.equal(everything(open_images(tmp_path / "samples.npz", count=5)), expected(5))


def test_reading_again_gives_the_same_and_counts_nothing_twice(folder):
    images = open_images(folder)
    assert torch.equal(everything(images), everything(images, 3))
    assert images.notes() == []


def test_a_reader_that_stops_early_leaves_no_threads_behind(folder):
    import threading

    before = threading.active_count()
    batches = open_images(folder).batches(1)
    next(batches)
    batches.close()
    assert threading.active_count() == before


# What is noted


def test_opaque_alpha_is_no_matter(tmp_path):
    for number in range(3):
        picture(number).convert("RGBA").save(tmp_path / f"{number}.png")
    assert torch.equal(everything(open_images(tmp_path)), expected(3))


def test_palettes_are_read_as_their_colors(tmp_path):
    for number in range(2):
        picture(number).quantize(256).save(tmp_path / f"{number}.png")
    assert (everything(open_images(tmp_path)).int() - expected(2).int()).abs().float().mean() < 8


@pytest.mark.parametrize(
    ("mode", "suffix", "said"),
    [
        ("L", "png", "1 grayscale images"),
        ("LA", "png", "1 grayscale images"),
        ("1", "png", "1 black and white images"),
        ("CMYK", "tif", "1 CMYK images"),
    ],
)
def test_conversions_to_rgb_are_noted(folder, mode, suffix, said):
    picture().convert(mode).save(folder / f"99.{suffix}")
    images = open_images(folder)
    assert everything(images).shape == (13, 3, SIDE, SIDE)
    assert any(said in note for note in images.notes())


def test_jpeg_and_mixed_formats_are_noted_by_what_files_are_and_not_by_their_names(folder):
    picture(50).save(folder / "50.png", format="JPEG")
    notes = open_images(folder).notes()
    assert any("several formats: 12 PNG, 1 JPEG" in note for note in notes)
    assert any("1 of 13 images are JPEG" in note for note in notes)


def test_exact_copies_are_counted(folder):
    for name in ("20.png", "21.bmp"):
        picture(3).save(folder / name)
    images = open_images(folder)
    everything(images)
    assert any("2 of 14 images are exact copies" in note for note in images.notes())


# Crops


@pytest.mark.parametrize("kind", ["lanczos", "bicubic", "adm"])
def test_crops_make_one_size_of_many_and_say_how(tmp_path, kind):
    for number, size in enumerate([(40, 30), (30, 41), (5, 9)]):
        Image.fromarray(np.full((*size, 3), 60 + number, np.uint8)).save(tmp_path / f"{number}.png")
    fit = Fit(kind, 12)
    images = open_images(tmp_path, fit=fit)
    found = everything(images)
    assert found.shape == (3, 3, 12, 12)
    assert found[:, 0, 0, 0].tolist() == [60, 61, 62]
    notes = " ".join(images.notes())
    assert fit.note in notes
    assert "1 images were smaller than 12" in notes
    assert "12x12" in fit.note


def test_the_crop_of_coco_is_the_middle_and_then_lanczos(tmp_path):
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8))
    theirs = wide.crop((10, 0, 40, 30)).resize((16, 16), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(Fit("lanczos", 16)(wide)), np.asarray(theirs))


def test_the_crop_of_adm_halves_by_box_first(tmp_path):
    large = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 130, 3), dtype=np.uint8))
    halved = large.resize((65, 35), Image.Resampling.BOX).resize((32, 17), Image.Resampling.BOX)
    theirs = halved.resize((30, 16), Image.Resampling.BICUBIC).crop((7, 0, 23, 16))
    assert np.array_equal(np.asarray(Fit("adm", 16)(large)), np.asarray(theirs))


def test_the_crop_of_encoding_is_the_same_here():
    from dimo_cli.data.source import prepare

    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 51, 3), dtype=np.uint8))
    theirs = ((prepare(wide, 16) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(Fit("bicubic", 16)(wide)), theirs)


@pytest.mark.parametrize(("kind", "size"), [("lancos", 8), ("adm", 0)])
def test_impossible_crops_are_refused(kind, size):
    with pytest.raises(SpecError) as error:
        Fit(kind, size)
    assert size or "1 or more" in error.value.message


# Prompts


def test_prompts_of_a_list_belong_to_names(folder):
    lines = [{"file_name": f"{n}.png", ("prompt", "text")[n % 2]: f"number {n}"} for n in range(12)]
    lines = [json.dumps(line) for line in reversed(lines)]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n\n")
    images = open_images(folder, count=7)
    assert images.prompts == tuple(f"number {n}" for n in range(7))
    assert [b.prompts for b in images.batches(4)] == [images.prompts[:4], images.prompts[4:]]


def test_prompts_of_a_plain_list_come_in_the_order_of_the_images(folder, tmp_path):
    (folder / "captions.txt").write_text(
        "\n".join(f"ünïcode {n}" for n in range(12)) + "\n", "utf-8"
    )
    wanted = tuple(f"ünïcode {n}" for n in range(12))
    assert open_images(folder).prompts == wanted
    assert open_images(zipped(folder, tmp_path / "images.zip")).prompts == wanted


def test_prompts_may_lie_beside_the_images(folder):
    for number in range(12):
        (folder / f"{number}.txt").write_text(f" number {number}\n")
    assert open_images(folder).prompts[10] == "number 10"


def write(name, text):
    return lambda folder: (folder / name).write_bytes(text.encode() if text else b"\xff\xfe\xff")


LINE = '{"file_name": "0.png", "prompt": "a cat"}\n'


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (write("captions.txt", "only one"), "1 lines for 12 images"),
        (write("captions.txt", "x\n" * 11 + " \n"), "`11.png` .* has no prompt"),
        (write("captions.txt", ""), "no text in UTF-8"),
        (write("metadata.jsonl", "{"), "line 1 is not of the form"),
        (write("metadata.jsonl", '["0.png"]'), "line 1 is not of the form"),
        (write("metadata.jsonl", '{"file_name": "0.png"}'), "line 1 is not of the form"),
        (write("metadata.jsonl", '{"file_name": 0, "text": "x"}'), "line 1 is not of the form"),
        (write("metadata.jsonl", LINE + LINE), "line 2 names `0.png` a second time"),
        (write("metadata.jsonl", LINE.replace("0", "77")), "names `77.png`, which is no image"),
        (write("metadata.jsonl", LINE), "has no prompt"),
        (write("3.txt", "a dog"), "and 8 more .* has no prompt"),
    ],
)
def test_prompts_that_do_not_fit_the_images_are_refused(folder, spoil, said):
    spoil(folder)
    with pytest.raises(SpecError, match=said):
        open_images(folder)


# What is refused


def truncated_png(folder):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for path in folder.iterdir():
        Image.fromarray(noise).save(path)
    content = (folder / "5.png").read_bytes()
    (folder / "5.png").write_bytes(content[: len(content) // 2])


def raw_png(side, depth):
    """A black PNG written by hand: PIL writes no 16-bit color, and a bomb takes long."""

    def chunk(kind, data):
        length, check = (struct.pack(">I", n) for n in (len(data), zlib.crc32(kind + data)))
        return length + kind + data + check

    header = struct.pack(">IIBBBBB", side, side, depth, 2, 0, 0, 0)
    rows = (b"\0" + bytes(SIDE * 3 * depth // 8)) * SIDE
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
    return lambda folder: (folder / "5.png").write_bytes(content)


def transparent(folder):
    image = picture().convert("RGBA")
    image.putpixel((3, 3), (1, 2, 3, 254))
    image.save(folder / "5.png")


def color_key(folder):
    picture().save(folder / "5.png", transparency=tuple(pixels(0)[0, 0].tolist()))


def animated(folder):
    frames = [picture(1), picture(2)]
    frames[0].save(folder / "5.webp", save_all=True, append_images=frames[1:], lossless=True)


def array(values):
    return lambda folder: np.save(folder / "5.npy", values)


BAD = {
    "empty file": (lambda f: (f / "5.png").write_bytes(b""), "`5.png`: no readable image"),
    "text": (lambda f: (f / "5.png").write_text("<html>"), "`5.png`: no readable image"),
    "truncated": (truncated_png, "5.png.*: no readable image"),
    "truncated jpeg header": (
        lambda f: (f / "5.jpg").write_bytes(b"\xff\xd8\xff\xe0"),
        "`5.jpg`: no readable image",
    ),
    "broken link": (lambda f: (f / "99.png").symlink_to(f / "gone"), "`99.png`: a link to nothing"),
    "too many pixels": (raw_png(20_000, 8), "`5.png`: too many pixels"),
    "16-bit gray": (
        lambda f: Image.fromarray(np.zeros((SIDE, SIDE), np.uint16)).save(f / "5.png"),
        "`5.png`: more than 8 bits",
    ),
    "16-bit color": (raw_png(SIDE, 16), "`5.png`: more than 8 bits"),
    "32-bit float": (lambda f: picture().convert("F").save(f / "5.tif"), "more than 8 bits"),
    "lab": (lambda f: Image.new("LAB", (SIDE, SIDE)).save(f / "5.tif"), "color mode LAB"),
    "transparent": (transparent, "`5.png`.*: transparent pixels"),
    "transparent color": (color_key, "`5.png`.*: transparent pixels"),
    "animated": (animated, "`5.webp`: several frames"),
    "NaN": (array(np.full((SIDE, SIDE, 3), np.nan)), "`5.npy`: NaN"),
    "float": (array(np.zeros((SIDE, SIDE, 3))), "`5.npy`: an array of float64"),
    "flat array": (array(np.zeros((SIDE, SIDE), np.uint8)), "`5.npy`: an array of shape"),
    "objects": (array(np.array([{}], dtype=object)), "`5.npy`: no readable image"),
    "another size": (lambda f: picture(0, 9).save(f / "5.png"), "mixes images of 2 sizes"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_would_change_a_number_is_refused_by_name(folder, name):
    spoil, said = BAD[name]
    spoil(folder)
    with pytest.raises(SpecError, match=said) as error:
        everything(open_images(folder))
    assert error.value.hint
    assert error.value.exit_code == 2


def test_all_problems_are_told_at_once(folder):
    for number in range(1, 6):
        (folder / f"{number}.png").write_bytes(b"")
    array(np.zeros(3))(folder)
    with pytest.raises(SpecError) as error:
        open_images(folder)
    assert "`1.png`, `2.png`, `3.png` and 2 more: no readable image" in error.value.message
    assert "`5.npy`: an array of float64" in error.value.message


def test_sizes_are_counted(folder):
    picture(0, 9).save(folder / "5.png")
    with pytest.raises(SpecError) as error:
        open_images(folder)
    assert "8x8 (11), 9x9 (1)" in error.value.message


def test_paths_that_hold_no_images_are_refused(tmp_path):
    with pytest.raises(MissingError, match="no folder or file"):
        open_images(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match="has no images") as error:
        open_images(tmp_path / "empty")
    assert ".png" in error.value.hint
    picture().save(tmp_path / "one.png")
    with pytest.raises(SpecError, match="single file"):
        open_images(tmp_path / "one.png")


def test_too_few_images_are_refused(tmp_path):
    fill(tmp_path, 1)
    with pytest.raises(SpecError, match="has 1 image; statistics need at least 2"):
        open_images(tmp_path)
    assert len(open_images(tmp_path, least=1)) == 1
    fill(tmp_path, 3)
    with pytest.raises(SpecError, match="has 3 images; 50,000 were asked for"):
        open_images(tmp_path, count=50_000)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"Rar!"])
def test_a_zip_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "images.zip").write_bytes(content)
    with pytest.raises(SpecError, match="no readable zip"):
        open_images(tmp_path / "images.zip")


def test_a_damaged_member_of_a_zip_is_refused_by_name(folder, tmp_path):
    path = zipped(folder, tmp_path / "images.zip")
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("5.png").header_offset + 60
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(SpecError, match=r"5\.png"):
        everything(open_images(path))


def test_an_npz_without_images_or_with_a_crop_is_refused(tmp_path):
    np.savez(tmp_path / "ref.npz", mu=np.zeros(3))
    with pytest.raises(SpecError, match="has no images: it holds mu"):
        open_images(tmp_path / "ref.npz")
    np.savez(tmp_path / "samples.npz", np.zeros((3, 8, 8, 3), np.uint8))
    with pytest.raises(SpecError, match="cannot be cropped"):
        open_images(tmp_path / "samples.npz", fit=Fit("adm", 4))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(SpecError, match="truncated or damaged"):
        open_images(tmp_path / "broken.npz")


# One rule for what is measured and what is encoded


@pytest.mark.parametrize("name", odd_pictures())
def test_what_is_refused_here_is_refused_by_encoding_with_the_same_words(tmp_path, name):
    content, why = odd_pictures()[name]
    (tmp_path / "one").mkdir()
    for number in range(2):
        picture(number).save(tmp_path / "one" / f"{number}.png")
    (tmp_path / "one" / name).write_bytes(content)
    source = open_source(str(tmp_path), captions=False)
    told = source.image_or_reason(source.names.index(f"one/{name}"), SIDE)
    assert why in told
    with pytest.raises(SpecError) as caught:
        everything(open_images(tmp_path))
    assert told in caught.value.message


def test_a_picture_on_its_side_is_measured_and_encoded_upright(tmp_path):
    upright = Image.new("RGB", (8, 16), (250, 10, 10))
    upright.paste((10, 10, 250), (0, 8, 8, 16))
    for number in range(2):
        lying = upright.transpose(Image.Transpose.ROTATE_90)
        (tmp_path / f"{number}.jpg").write_bytes(lying_on_its_side(lying))
    found = everything(open_images(tmp_path))
    assert found.shape == (2, 3, 16, 8), "the header's size is the one that is shown"
    assert found[0, 0, 2].float().mean() > 240 > 20 > found[0, 0, 13].float().mean()
    (tmp_path / "one").mkdir()
    (tmp_path / "0.jpg").rename(tmp_path / "one" / "0.jpg")
    (tmp_path / "1.jpg").unlink()
    encoded = open_source(str(tmp_path), captions=False).image(0, 8)
    assert encoded[0, 1].mean() > 0.9 > -0.9 > encoded[0, 6].mean()


def test_a_picture_that_turns_out_to_lie_on_its_side_is_refused(tmp_path):
    for number in range(2):
        picture(number).save(tmp_path / f"{number}.png")
    content = png(Image.new("RGB", (SIDE, SIDE // 2)))
    exif = Image.Exif()
    exif[0x112] = 6
    late = exif.tobytes()[6:]
    chunk = b"eXIf" + late
    check = struct.pack(">I", zlib.crc32(chunk))
    end = content.index(b"IEND") - 4
    chunk = struct.pack(">I", len(late)) + chunk + check
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(content[:end] + chunk + content[end:])
    with pytest.raises(SpecError, match="EXIF data behind its pixels turns it on its side"):
        everything(open_images(tmp_path))
    assert everything(open_images(tmp_path, fit=Fit("lanczos", 4))).shape == (2, 3, 4, 4)


@pytest.mark.parametrize("gap", ["\u2028", "\x0b", "\x0c", "\x85", "\u2029", "\x1c"])
def test_only_line_ends_part_the_prompts_of_a_folder(folder, gap):
    prompts = [f"number{gap}{n}" for n in range(12)]
    (folder / "captions.txt").write_bytes(("\ufeff" + "\r\n".join(prompts) + "\n").encode())
    assert open_images(folder).prompts == tuple(prompts)
    lines = [{"file_name": f"{n}.png", "prompt": prompts[n]} for n in range(12)]
    listed = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (folder / "metadata.jsonl").write_text(listed, "utf-8")
    assert open_images(folder).prompts == tuple(prompts)
