"""Tables that strangers published, as Parquet or JSON lines, read a row at a time."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from dimo_cli.errors import MissingError
from dimo_cli.files import parquet_reader
from dimo_cli.files.parquet_reader import BROKEN, END, MOST_VALUE, NOTHING, TOO_LONG
from dimo_cli.files.reading import check_regular
from dimo_cli.files.untrusted import parse_json

SUFFIXES = (".parquet", ".jsonl")
MOST_LINE = 16 * 2**20  # bytes of a line of JSON
LOOKED_AT = 50  # lines that say which columns there are
NEEDS_PYARROW = (
    "Install it with `pip install 'dimo-cli[datasets]'` or `pipx inject dimo-cli pyarrow`."
)
CRASHES = "it crashes what reads it"
AGAIN = "Choose another file of the dataset, or a revision at which it is whole."

Row = tuple[bytes | None, ...]
"""The values of some columns; None where there is none, or one too long for anything."""


def columns_of(path: Path) -> dict[str, str]:
    """The columns of a table, each with its kind: text, number, picture, lists or other."""
    check_regular(path)
    if path.suffix == ".jsonl":
        kinds: dict[str, str] = {}
        for _, entry in zip(range(LOOKED_AT), entries_of(path), strict=False):
            for name, value in entry.items():
                if kinds.get(name, "other") == "other":
                    kinds[name] = kind_of(value)
        return kinds
    with reader(path, [], 0) as (columns, _):
        return columns


def rows_of(path: Path, names: Sequence[str], first: int = 0) -> Iterator[Row]:
    """The values of some columns in each row, from a row on; a damaged file is refused."""
    check_regular(path)
    if path.suffix == ".jsonl":
        for number, entry in enumerate(entries_of(path)):
            if number >= first:
                yield tuple(as_bytes(entry.get(name)) for name in names)
        return
    with reader(path, list(names), first) as (_, stream):
        for length in iter(lambda: read_length(path, stream), END):
            row = [read_value(path, stream, length)]
            for _ in names[1:]:
                row.append(read_value(path, stream, read_length(path, stream)))
            yield tuple(row)


def entries_of(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one a line; a line that is none is refused with its number."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MOST_LINE + 1):
            number += 1
            if len(line) > MOST_LINE:
                raise damaged(path, f"line {number} has more than {MOST_LINE // 2**20} MiB")
            if not line.strip():
                continue
            try:
                entry = parse_json(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
            except ValueError:
                entry = None
            if not isinstance(entry, dict):
                raise damaged(path, f"line {number} is no JSON object")
            yield entry


def kind_of(value: Any) -> str:
    """What a value of JSON is to dimo."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, int):
        return "number"
    return "lists" if isinstance(value, (list, dict)) else "other"


def as_bytes(value: Any) -> bytes | None:
    """A value of JSON as Parquet would give it."""
    if isinstance(value, int):
        value = str(int(value)) if abs(value) < 10**18 else None
    if not isinstance(value, str):
        return None
    content = value.encode("utf-8", "replace")  # half of a character becomes a question mark
    return content if len(content) <= MOST_VALUE else None


@contextmanager
def reader(path: Path, names: list[str], first: int) -> Iterator[tuple[dict[str, str], IO[bytes]]]:
    """The columns of a Parquet file, and the stream of its rows, out of a process of its own."""
    program = str(Path(parquet_reader.__file__))
    command = [sys.executable, "-P", program, str(path), json.dumps(names), str(first)]
    # The library's own pool asks for address space far ahead, which the reader limits.
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    assert process.stdout is not None
    try:
        yield read_head(path, process.stdout), process.stdout
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def read_head(path: Path, stream: IO[bytes]) -> dict[str, str]:
    """The columns, out of the first line that a reader writes."""
    try:
        head = parse_json(stream.readline(MOST_LINE))
    except ValueError:
        head = {"error": CRASHES}
    if "missing" in head:
        raise no_pyarrow(str(path))
    if "error" in head:
        raise damaged(path, str(head["error"]))
    return {str(name): str(kind) for name, kind in head["columns"].items()}


def read_length(path: Path, stream: IO[bytes]) -> int:
    """How long the next value is, or what stands in place of that; why there is none is said."""
    head = stream.read(8)
    length = int(struct.unpack("<q", head)[0]) if len(head) == 8 else BROKEN
    if length == BROKEN:
        told = stream.read(8)
        reason = stream.read(struct.unpack("<q", told)[0]).decode() if len(told) == 8 else ""
        raise damaged(path, reason or CRASHES)
    return length


def read_value(path: Path, stream: IO[bytes], length: int) -> bytes | None:
    """The next value, of which its length is known."""
    if length in (NOTHING, TOO_LONG):
        return None
    content = stream.read(length)
    if len(content) < length:
        raise damaged(path, CRASHES)
    return content


def needs_pyarrow(files: Sequence[str]) -> bool:
    """Whether there is a Parquet file among these, and nothing here that reads it."""
    return find_spec("pyarrow") is None and any(name.endswith(".parquet") for name in files)


def no_pyarrow(what: str) -> MissingError:
    """The sentence where Parquet cannot be read at all."""
    return MissingError(
        f"`{what}` is a Parquet file, and the package `pyarrow` is missing.", NEEDS_PYARROW
    )


def damaged(path: Path, reason: str) -> MissingError:
    """The sentence for a table that cannot be read."""
    return MissingError(f"`{path.name}` cannot be read: {reason}.", AGAIN)
