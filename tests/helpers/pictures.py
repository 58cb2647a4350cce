"""Digits as image files, in the layouts that people have."""

import io
import json
import tarfile

import numpy as np
from PIL import ExifTags, Image

from dimo_cli.teachers.classes import DIGITS as CLASS_NAMES
from dimo_cli.teachers.digits import DigitsTokenizer, training_tokens


def pictures(count):
    """`count` images with their labels; their tokens are the first of the training set."""
    tokens, labels = (part[:count] for part in training_tokens())
    levels = ((DigitsTokenizer().decode(tokens) + 1) * 127.5).round().byte()
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in levels], labels.tolist()


def png(image):
    """The bytes of a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def class_folder(root, count):
    """A subfolder per class, named in words; returns the indices in the order of names."""
    images, labels = pictures(count)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / CLASS_NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{index:04d}.png")
    return sorted(range(count), key=lambda index: (CLASS_NAMES[labels[index]], index))


def archive(path, count, words=None):
    """A webdataset archive: name.png with name.cls, or with what `words` gives per index."""
    images, labels = pictures(count)
    with tarfile.open(path, "w") as tar:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            suffix, text = ("cls", str(label)) if words is None else words(index)
            for name, data in ((f"{index:04d}.png", png(image)), (f"{index:04d}.{suffix}", text)):
                data = data.encode() if isinstance(data, str) else data
                member = tarfile.TarInfo(f"train/{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def captioned_folder(root, count):
    """Images with captions: half in `captions.jsonl`, half beside the image."""
    images, labels = pictures(count)
    root.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        name, caption = f"{index:04d}.png", f"a {CLASS_NAMES[label]}, “ünïcode”"
        image.save(root / name)
        if index % 2:
            (root / name).with_suffix(".txt").write_text(f"{caption}\n", encoding="utf-8")
        else:
            lines.append(json.dumps({"file": name, "caption": caption}))
    (root / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def lying_on_its_side(image, orientation=6):
    """A JPEG from a camera that was held sideways: its EXIF data turns it upright."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return saved(image, "JPEG", exif=exif, quality=100, subsampling=0)


def odd_pictures(side=8):
    """Pictures that hide something, by their file's name, each with what is said of it."""
    plain = Image.new("RGB", (side, side), (200, 30, 90))
    seen_through = plain.convert("RGBA")
    seen_through.putpixel((3, 3), (1, 2, 3, 254))
    gray = Image.fromarray(np.full((side, side), 40_000, np.uint16))
    return {
        "deep.png": (saved(gray, "PNG"), "more than 8 bits per channel"),
        "deep.tif": (saved(plain.convert("F"), "TIFF"), "more than 8 bits per channel"),
        "lab.tif": (saved(Image.new("LAB", (side, side)), "TIFF"), "the color mode LAB"),
        "key.png": (saved(plain, "PNG", transparency=(200, 30, 90)), "transparent pixels"),
        "alpha.png": (saved(seen_through, "PNG"), "transparent pixels"),
        "frames.webp": (animation(plain), "several frames"),
        "large.ppm": (b"P6 20000 20000 255\n", "too many pixels"),
        "cut.png": (png(plain)[:40], "no readable image"),
        "empty.jpg": (b"", "no readable image"),
        "text.png": (b"<html>", "no readable image"),
    }


def animation(image):
    """A WebP of two frames."""
    other = image.transpose(Image.Transpose.ROTATE_90).point(lambda level: 255 - level)
    return saved(image, "WEBP", save_all=True, append_images=[other], lossless=True)


def saved(image, kind, **options):
    """The bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
