"""Grids with a label each, side by side: as one picture, or as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dimo_cli.console.images import draw
from dimo_cli.files.png import Pixels, enlarge, grid

BACKGROUND, INK, FONT_SIZE, PADDING = 24, 235, 16, 12


@dataclass(frozen=True)
class Panel:
    """Images [N, H, W, 3] of one maker, and who that is."""

    label: str
    images: Pixels
    columns: int


def side_by_side(panels: Sequence[Panel], smallest_side: int) -> Pixels:
    """All panels as one picture, each under its label."""
    pictures = [
        labelled(panel.label, grid(enlarge(panel.images, smallest_side), panel.columns, gap=4))
        for panel in panels
    ]
    height = max(picture.shape[0] for picture in pictures)
    padded = [
        np.pad(
            picture,
            ((0, height - picture.shape[0]), (0, PADDING), (0, 0)),
            constant_values=BACKGROUND,
        )
        for picture in pictures
    ]
    return np.concatenate(padded, axis=1)[:, :-PADDING]


def labelled(label: str, picture: Pixels) -> Pixels:
    """A picture under a line of text, made as wide as the text needs."""
    font = ImageFont.load_default(FONT_SIZE)
    text_width = int(font.getlength(label)) + 1
    height, width, _ = picture.shape
    head = FONT_SIZE + PADDING
    size = (max(width, text_width + 2 * PADDING), height + head)
    canvas = Image.new("RGB", size, (BACKGROUND,) * 3)
    ImageDraw.Draw(canvas).text((PADDING, PADDING // 2), label, (INK,) * 3, font)
    canvas.paste(Image.fromarray(picture), (0, head))
    return np.asarray(canvas)


def as_text(panels: Sequence[Panel], width: int) -> RenderableType:
    """The panels for a terminal of `width` columns: beside each other if they fit."""
    drawn = [draw(panel.images, panel.columns, width) for panel in panels]
    widths = [
        max(len(panel.label), *(len(line) for line in text.plain.splitlines()))
        for panel, text in zip(panels, drawn, strict=True)
    ]
    labels = [Text(panel.label, style="bold") for panel in panels]
    if sum(widths) + 2 * (len(panels) - 1) <= width:
        table = Table.grid(padding=(0, 2))
        for size in widths:
            table.add_column(min_width=size)
        table.add_row(*labels)
        table.add_row(*drawn)
        return table
    parts: list[RenderableType] = []
    for label, text in zip(labels, drawn, strict=True):
        parts += [label, text, Text("")]
    return Group(*parts[:-1])
