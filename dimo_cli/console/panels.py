"""Images of several makers, a row each and a column a seed: as one picture, or as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Group, RenderableType
from rich.text import Text

from dimo_cli.console.images import draw
from dimo_cli.files.png import Pixels, enlarge

BACKGROUND, INK, SOFT = 24, 235, 170
FONT_SIZE, PADDING, GAP = 16, 12, 4
WIDEST = 1400  # pixels of a row, about: what is further to the right goes below
MOST_COLUMNS, FEWEST_COLUMNS, MOST_HEAD_LINES = 16, 4, 6
HEAD_LETTERS = 9  # a head may be this many times as wide as its letters are high


@dataclass(frozen=True)
class Panel:
    """Images [N, H, W, 3] of one maker, one for each column, and who that is."""

    label: str
    images: Pixels


@dataclass(frozen=True)
class Line:
    """Text of a picture, from where on it stands."""

    left: int
    top: int
    text: str
    ink: int


def matrix(
    panels: Sequence[Panel], heads: Sequence[str], smallest_side: int, title: str = ""
) -> Pixels:
    """A row for each panel under the heads of its columns; what is too wide goes on below."""
    panels = [Panel(panel.label, enlarge(panel.images, smallest_side)) for panel in panels]
    side = max(panel.images.shape[2] for panel in panels)
    font = font_of(side)
    cell = max(side, min(HEAD_LETTERS * font.size, int(widest(heads, font)) + 2 * GAP))
    panels = [Panel(panel.label, filling(panel.images, cell)) for panel in panels]
    fitting = min(MOST_COLUMNS, max(FEWEST_COLUMNS, WIDEST // cell))
    count = -(-len(heads) // -(-len(heads) // fitting))  # as many in each band, about
    parts = [
        band(
            [Panel(panel.label, panel.images[first : first + count]) for panel in panels],
            heads[first : first + count],
            cell,
            font,
        )
        for first in range(0, len(heads), count)
    ]
    if title:
        width = max(part.shape[1] for part in parts)
        parts.insert(0, written(wrapped(title, font, width - 2 * PADDING), font))
    return below([*parts, np.full((PADDING, 1, 3), BACKGROUND, np.uint8)])


def filling(images: Pixels, cell: int) -> Pixels:
    """Images as large as a cell has room for, each pixel repeated as often as the others."""
    return enlarge(images, cell // images.shape[2] * images.shape[2])


def font_of(side: int) -> ImageFont.FreeTypeFont:
    """Letters that can be read beside images of this size, when the picture is made smaller."""
    font = ImageFont.load_default(max(FONT_SIZE, side // 12))
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def widest(texts: Sequence[str], font: ImageFont.FreeTypeFont) -> float:
    """The width of the longest line."""
    lines = [line for text in texts for line in text.split("\n")]
    return max((font.getlength(line) for line in lines), default=0.0)


def band(
    panels: Sequence[Panel], heads: Sequence[str], cell: int, font: ImageFont.FreeTypeFont
) -> Pixels:
    """Some columns of all panels."""
    parts = [heading(heads, cell, font)]
    for panel in panels:
        parts += [written([panel.label], font), row(panel.images, cell)]
    return below(parts)


def heading(heads: Sequence[str], cell: int, font: ImageFont.FreeTypeFont) -> Pixels:
    """What stands over each column."""
    columns = [wrapped(head, font, cell - GAP)[:MOST_HEAD_LINES] for head in heads]
    height = max(len(lines) for lines in columns)
    lines = [
        Line(GAP + index * (cell + GAP), place * line_height(font), text, SOFT)
        for index, texts in enumerate(columns)
        for place, text in enumerate(texts, height - len(texts))
    ]
    return lettered(lines, len(heads) * (cell + GAP) + GAP, height * line_height(font), font)


def row(images: Pixels, cell: int) -> Pixels:
    """Images beside each other, each in its column."""
    count, height, width, _ = images.shape
    canvas = np.full((height + 2 * GAP, count * (cell + GAP) + GAP, 3), BACKGROUND, np.uint8)
    for index, image in enumerate(images):
        left = GAP + index * (cell + GAP)
        canvas[GAP : GAP + height, left : left + width] = image
    return canvas


def written(texts: Sequence[str], font: ImageFont.FreeTypeFont) -> Pixels:
    """Lines of text, as wide as they need."""
    lines = [Line(GAP, PADDING // 2 + i * line_height(font), t, INK) for i, t in enumerate(texts)]
    width = int(widest(texts, font)) + 2 * PADDING
    return lettered(lines, width, len(texts) * line_height(font) + PADDING // 2, font)


def labelled(label: str, picture: Pixels) -> Pixels:
    """A picture under a line of text, made as wide as the text needs."""
    return below([written([label], font_of(0)), picture])


def lettered(
    lines: Sequence[Line], width: int, height: int, font: ImageFont.FreeTypeFont
) -> Pixels:
    """A picture of nothing but text."""
    canvas = Image.new("RGB", (width, max(height, 1)), (BACKGROUND,) * 3)
    pen = ImageDraw.Draw(canvas)
    for line in lines:
        pen.text((line.left, line.top), line.text, (line.ink,) * 3, font)
    return np.asarray(canvas)


def line_height(font: ImageFont.FreeTypeFont) -> int:
    """From one line of text to the next."""
    return int(font.size * 1.3) + 1


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Text in lines that are no wider, where it has spaces to break at."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


def below(parts: Sequence[Pixels]) -> Pixels:
    """Pictures under each other, each filled up to the widest."""
    width = max(part.shape[1] for part in parts)
    filled = [
        np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=BACKGROUND)
        for part in parts
    ]
    return np.concatenate(filled)


def as_text(panels: Sequence[Panel], width: int) -> RenderableType:
    """The panels for a terminal of `width` columns: as many images of each as fit into a row."""
    parts: list[RenderableType] = []
    for panel in panels:
        fitting = max(1, (width - 1) // (panel.images.shape[2] + 1))
        images = panel.images[:fitting]
        parts += [Text(panel.label, style="bold"), draw(images, len(images), width), Text("")]
    return Group(*parts[:-1])
