"""Pictures in the terminal: in its own image protocol where it has one, else in half-blocks."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Literal

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import ControlType, Segment
from rich.text import Text

from dimo_cli.console.environment import image_protocol
from dimo_cli.console.images import draw
from dimo_cli.console.panels import Panel, as_text
from dimo_cli.files.png import Pixels, enlarge, grid, png_bytes

KITTY_CHUNK = 4096  # base64 characters of one sequence at most
CELL_WIDTH = 8  # pixels of a character, about: a picture is as wide as it would be elsewhere
SMALLEST_SIDE = 64


def shown(images: Pixels, columns: int, width: int) -> list[RenderableType]:
    """Images [N, H, W, 3] for a terminal of `width` characters; nothing where it shows none."""
    protocol = image_protocol()
    if protocol == "none":
        return []
    if protocol == "blocks":
        return [draw(images, columns, width), Text("")]
    picture = grid(enlarge(images, SMALLEST_SIDE), columns, gap=4)
    return [TerminalImage(picture, protocol), Text("")]


def shown_panels(panels: Sequence[Panel], picture: Pixels, width: int) -> list[RenderableType]:
    """Panels, whose picture [H, W, 3] there is already, for a terminal."""
    protocol = image_protocol()
    if protocol == "none":
        return []
    if protocol == "blocks":
        return [as_text(panels, width), Text("")]
    return [TerminalImage(picture, protocol), Text("")]


class TerminalImage:
    """A picture [H, W, 3] that the terminal draws by itself."""

    def __init__(self, pixels: Pixels, protocol: Literal["kitty", "iterm"]) -> None:
        self.pixels, self.protocol = pixels, protocol

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        encode = kitty_sequences if self.protocol == "kitty" else iterm_sequence
        cells = min(options.max_width, -(-self.pixels.shape[1] // CELL_WIDTH))
        # As a control segment it is no text: it has no width, and only terminals get it.
        yield Segment(encode(png_bytes(self.pixels, {}), cells), None, [(ControlType.HOME,)])
        yield Segment.line()


def kitty_sequences(png: bytes, cells: int) -> str:
    """A PNG, `cells` characters wide, in kitty's graphics protocol: in chunks, and unanswered."""
    text = b64encode(png).decode()
    chunks = [text[start : start + KITTY_CHUNK] for start in range(0, len(text), KITTY_CHUNK)]
    sequences = []
    for index, chunk in enumerate(chunks):
        about = f"a=T,f=100,q=2,c={cells}," if index == 0 else ""
        more = int(index < len(chunks) - 1)
        sequences.append(f"\x1b_G{about}m={more};{chunk}\x1b\\")
    return "".join(sequences)


def iterm_sequence(png: bytes, cells: int) -> str:
    """A PNG, `cells` characters wide, as an inline image of iTerm2."""
    about = f"inline=1;size={len(png)};width={cells};preserveAspectRatio=1"
    return f"\x1b]1337;File={about}:{b64encode(png).decode()}\x07"
