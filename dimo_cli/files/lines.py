"""The lines of text files that people write: prompts, captions, lists of them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import overload


def decoded(content: bytes) -> str:
    """A text in UTF-8, without the mark that some editors put in front."""
    return content.decode("utf-8-sig")


def lines_of(text: str) -> list[str]:
    r"""The lines of a text, which end at `\n` or `\r\n` and nowhere else.

    `str.splitlines` would also end them at characters that may stand within a prompt or a JSON
    string, such as U+2028, and every prompt behind such a place would be of another image.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


class FileLines(Sequence[str]):
    """The lines of a large file that are not blank, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        """The file ends its lines with "\\n" alone, is UTF-8, and is never changed."""
        self.path = path
        self.starts = array("q", [0])
        with path.open("rb") as file:
            for line in file:
                self.starts.append(self.starts[-1] + len(line))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        """A line without its end."""
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        with self.path.open("rb") as file:
            file.seek(self.starts[number])
            return file.read(self.starts[number + 1] - self.starts[number]).decode().rstrip("\n")
