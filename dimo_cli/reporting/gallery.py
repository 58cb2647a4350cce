"""Drawn images as one HTML page: each with what it shows, and the command that draws it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dimo_cli.files.png import Pixels
from dimo_cli.reporting.document import document, save_page
from dimo_cli.reporting.pictures import data_uri

MOST_SHOTS = 1000
SMALL = 128  # pixels of a side below which an image is kept as it is


@dataclass(frozen=True)
class Shot:
    """An image under which stands what it shows, from which seed, and who drew it."""

    uri: str
    side: int
    condition: str
    seed: str
    maker: str = ""

    @property
    def alt(self) -> str:
        """All of it in words."""
        return ", ".join(filter(None, (self.maker, self.condition, self.seed)))


@dataclass(frozen=True)
class Group:
    """Images that belong together; the title may be empty."""

    title: str
    shots: Sequence[Shot]


@dataclass(frozen=True)
class Gallery:
    """A page of images."""

    title: str
    lead: str
    groups: Sequence[Group]
    again: str
    """The command that draws them again, between backticks."""


def shot(pixels: Pixels, condition: str, seed: str, maker: str = "") -> Shot:
    """An image [H, W, 3] made ready for the page: exact where it is small, else a good JPEG."""
    kind = "PNG" if min(pixels.shape[:2]) < SMALL else "JPEG"
    uri = data_uri(Image.fromarray(pixels), kind)
    return Shot(uri, pixels.shape[1], condition, seed, maker)


def save_gallery(gallery: Gallery, target: Path) -> None:
    """Write the page."""
    save_page(render(gallery), target, "--gallery")


def render(gallery: Gallery) -> str:
    """The page; of very many images the first ones."""
    groups, room = [], MOST_SHOTS
    for group in gallery.groups:
        groups.append(Group(group.title, group.shots[:room]))
        room -= len(groups[-1].shots)
    total = sum(len(group.shots) for group in gallery.groups)
    view: dict[str, Any] = {
        "title": f"{gallery.title}: images of dimo",
        "heading": gallery.title,
        "lead": gallery.lead,
        "groups": [group for group in groups if group.shots],
        "left_out": max(0, total - MOST_SHOTS),
        "again": gallery.again.strip("`"),
        "small": SMALL,
    }
    return document("gallery.html", view, ("templates/gallery.css",))
