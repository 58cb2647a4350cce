"""Files that somebody names: only real ones are opened, and read only as far as makes sense.

A pipe keeps its reader waiting for ever, and a device such as /dev/zero never ends.
"""

from __future__ import annotations

import stat
from pathlib import Path

from dimo_cli.errors import SpecError

MIB = 2**20
# The most that a file of a kind may have: far more than any needs.
MOST_SPEC = MIB
MOST_DOCUMENT = 64 * MIB  # manifests, configurations, results
MOST_PROMPTS = 256 * MIB  # a line for each image of a large set
MOST_LOG = 256 * MIB  # a line for each of some 500,000 steps
MOST_STATISTICS = 1024 * MIB  # of the features of several networks

KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def check_regular(path: Path) -> None:
    """Refuse what is there and no file; what is not there is an OSError, as for `open`."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise SpecError(
            f"`{path}` is {KINDS.get(stat.S_IFMT(mode), 'no file')}, not a file.",
            "Name a file; write into one what comes from elsewhere.",
        )


def read_bytes(path: Path, most: int) -> bytes:
    """All of a file, which may have at most so many bytes."""
    check_regular(path)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise SpecError(
            f"`{path}` is too large: files of its kind have at most {most // MIB:,} MiB.",
            "Check that it is the file you mean.",
        )
    return content


def read_text(path: Path, most: int, errors: str = "strict") -> str:
    """All of a text file in UTF-8, line ends as "\\n"; `errors` as for `bytes.decode`."""
    text = read_bytes(path, most).decode("utf-8", errors)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_tail(path: Path, most: int) -> tuple[str, bool]:
    """The end of a text file as far as its last `most` bytes, and whether that is all of it.

    Of a longer one it begins with a whole line.
    """
    check_regular(path)
    with path.open("rb") as file:
        start = max(0, file.seek(0, 2) - most)
        file.seek(start)
        content = file.read(most)
    if start:
        content = content.partition(b"\n")[2]
    return content.decode("utf-8", "replace"), start == 0
