"""Pictures of others come in by one door."""

import ast
import io
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image, UnidentifiedImageError

import dimo_cli
from dimo_cli.data.pictures import read_header
from dimo_cli.files.pictures import FORMATS, TooManyPixels, open_picture

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


def test_nothing_else_in_the_package_opens_a_picture():
    package = Path(dimo_cli.__file__).parent
    found = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "Image.open"
    ]
    assert found == ["files/pictures.py"]
