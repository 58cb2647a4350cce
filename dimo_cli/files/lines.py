"""The lines of text files that people write: prompts, captions, lists of them."""

from __future__ import annotations


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
