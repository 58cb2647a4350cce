"""Pictures of others come in by one door."""

import ast
import io
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, ExifTags, Image, ImageOps, UnidentifiedImageError

import dimo_cli
from dimo_cli.data.pictures import read_header
from dimo_cli.files.pictures import (
    FORMATS,
    UPRIGHT,
    TooManyPixels,
    Unfit,
    open_picture,
    orientation,
    reason,
    shown_size,
    true_color,
)
from tests.helpers.pictures import odd_pictures
from tests.helpers.pictures import saved as bytes_of

POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
0 0 8 8 rectfill
showpage
%%EOF
"""


def saved(format, size=(8, 8)):
    file = io.BytesIO()
    Image.new("RGB", size, (250, 10, 10)).save(file, format)
    file.seek(0)
    return file


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_that_is_said_is_read(format):
    with open_picture(saved(format)) as picture:
        assert picture.format == format
        assert picture.convert("RGB").getpixel((4, 4))[0] > 200


def test_postscript_never_reaches_a_program_whatever_it_is_called(tmp_path, monkeypatch):
    def started(*_args, **_kwargs):
        raise AssertionError("Ghostscript was asked")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    (tmp_path / "picture.png").write_bytes(POSTSCRIPT)
    with pytest.raises(UnidentifiedImageError):
        open_picture(tmp_path / "picture.png")
    header = read_header(io.BytesIO(POSTSCRIPT), "picture.png")
    assert header.problem == "no readable image"


@pytest.mark.parametrize("format", ["GIF", "PDF", "EPS", "TGA", "ICO", "SGI"])
def test_other_formats_are_no_pictures(format):
    with pytest.raises(UnidentifiedImageError):
        open_picture(saved(format))


def test_pixels_are_counted_before_they_are_decoded():
    with pytest.raises(TooManyPixels, match="8 x 8"):
        open_picture(saved("PNG"), most_pixels=63)


def two_colors():
    image = Image.new("RGB", (16, 8), (250, 10, 10))
    image.paste((10, 10, 250), (0, 0, 8, 8))
    return image


@pytest.mark.parametrize("way", UPRIGHT)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_picture_is_turned_as_its_camera_was_held(way, kind):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = way
    lossless = {"quality": 100} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    content = bytes_of(two_colors(), kind, exif=exif, **lossless)
    with open_picture(io.BytesIO(content)) as image:
        size = shown_size(image)
        turned = true_color(image)
    viewer = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    assert turned.size == size == viewer.size
    assert turned.tobytes() == viewer.tobytes()


def test_a_damaged_orientation_turns_nothing():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = bytes_of(two_colors(), "JPEG", exif=exif).replace(b"MM\x00*", b"XX\x00*")
    with open_picture(io.BytesIO(content)) as image:
        assert orientation(image) == 1
        assert true_color(image).size == (16, 8)


@pytest.mark.parametrize("name", odd_pictures())
def test_what_would_be_lost_on_the_way_to_rgb_is_refused(name):
    content, why = odd_pictures()[name]
    with (
        pytest.raises((Unfit, OSError, Image.DecompressionBombError)) as caught,
        open_picture(io.BytesIO(content)) as image,
    ):
        true_color(image)
    assert why in reason(caught.value)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "LA", "RGBA", "PA"])
def test_what_loses_nothing_becomes_rgb(mode):
    image = Image.new("L", (8, 8), 255).convert("P" if mode == "PA" else mode)
    assert true_color(image.convert(mode)).getpixel((1, 1)) == (255, 255, 255)


def test_nothing_else_in_the_package_opens_a_picture():
    package = Path(dimo_cli.__file__).parent
    found = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "Image.open"
    ]
    assert found == ["files/pictures.py"]
