"""Pictures inside the page: each small enough that a report of a long run stays one to share."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dimo_cli.files.pictures import open_picture
from dimo_cli.files.reading import read_bytes
from dimo_cli.files.untrusted import parse_json

KEPT_BYTES = 150_000  # a PNG up to this size is embedded as it is
LONGEST_SIDE = 1200


@dataclass(frozen=True)
class Picture:
    """An image that is part of the page."""

    title: str
    alt: str
    uri: str
    width: int
    height: int
    conditions: tuple[str, ...] = ()
    """The class or prompt of each image of a grid, row by row, if the file says."""


def embed(path: Path, title: str, alt: str) -> Picture | None:
    """A PNG as a data URI, made smaller where it is large; None if it cannot be read."""
    try:
        with open_picture(path) as image:
            image.load()
            conditions = image.info.get("dimo.conditions", "[]")
            if image.format == "PNG" and path.stat().st_size <= KEPT_BYTES:
                data, kind = read_bytes(path, KEPT_BYTES), "png"
            else:
                data, kind = smaller(image), "jpeg"
            names = tuple(str(name) for name in parse_json(conditions))
    except Exception:  # of whichever decoder
        return None
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Picture(title, alt, uri, *image.size, names)


def data_uri(image: Image.Image, kind: str) -> str:
    """An image inside an address: a PNG as it is, or a JPEG that looks like it."""
    buffer = io.BytesIO()
    if kind == "PNG":
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=90, subsampling=0)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def smaller(image: Image.Image) -> bytes:
    """A JPEG of at most LONGEST_SIDE pixels a side."""
    copy = image.convert("RGB")
    copy.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    copy.save(buffer, "JPEG", quality=82, optimize=True)
    return buffer.getvalue()
