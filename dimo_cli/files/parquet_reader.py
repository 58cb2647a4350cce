"""A program of its own that reads a Parquet file, for `files/tables`: arguments are a file, a JSON
list of columns, and the first row.

Such files come from strangers, and what reads them is a large library in another language: a
damaged file may crash it, and a few kilobytes can unpack to a terabyte. Here that ends a process
with little memory, not the program. It imports nothing of dimo.

It writes a line of JSON, {"columns": {name: kind}} or {"error": ...}; then each value of each row
as its length in 8 bytes and its bytes.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any

NOTHING, TOO_LONG, END, BROKEN = -1, -2, -3, -4  # in place of a length
MEMORY = 400 * 2**20  # bytes that may be taken beside what the library itself takes
MOST_VALUE = 64 * 2**20  # bytes of a value; the picture of a camera has a quarter of that
AT_ONCE = {"text": 512, "number": 512, "picture": 4}  # rows, by the kind of the largest column
BUFFER = 2**20


def limit_memory() -> None:
    """Have larger requests fail, where the system can do that."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, hard))
    except (ImportError, OSError, ValueError):
        return


def kind_of(data_type: Any) -> str:
    """What the values of a column are to dimo."""
    import pyarrow.types as types

    if types.is_dictionary(data_type):
        return kind_of(data_type.value_type)
    if types.is_string(data_type) or types.is_large_string(data_type):
        return "text"
    if types.is_integer(data_type) or types.is_boolean(data_type):
        return "number"
    if types.is_struct(data_type):
        names = [data_type.field(index).name for index in range(data_type.num_fields)]
        is_bytes = "bytes" in names and kind_of(data_type.field("bytes").type) == "picture"
        return "picture" if is_bytes else "other"
    if types.is_binary(data_type) or types.is_large_binary(data_type):
        return "picture"
    return "lists" if types.is_nested(data_type) else "other"


def values_of(column: Any, kind: str) -> list[bytes | None]:
    """The values of a column of a batch as bytes."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_struct(column.type):  # of a picture; the path in it is never opened
        index = next(i for i, field in enumerate(column.type) if field.name == "bytes")
        column = column.flatten()[index]
    if kind == "number":
        return [None if value is None else str(int(value)).encode() for value in column.to_pylist()]
    found: list[bytes | None] = column.cast(pa.large_binary()).to_pylist()
    return found


def frames_of(path: str, names: list[str], first: int) -> Iterator[bytes]:
    """All that is written about a file: the line, and then the values of rows."""
    import pyarrow.parquet as parquet

    file = parquet.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)
    kinds = {field.name: kind_of(field.type) for field in file.schema_arrow}
    yield json.dumps({"columns": kinds}).encode() + b"\n"
    if not names:
        return
    at_once = min(AT_ONCE.get(kinds[name], 1) for name in names)
    for group in range(file.metadata.num_row_groups):
        claimed = file.metadata.row_group(group).num_rows
        if first >= claimed:
            first -= claimed
            continue
        seen = 0
        for batch in file.iter_batches(at_once, [group], names, use_threads=False):
            columns = [values_of(batch.column(name), kinds[name]) for name in names]
            for row in zip(*columns, strict=True):
                seen += 1
                if seen > first:
                    yield from map(frame, row)
        if seen != claimed:
            raise ValueError(f"a group of rows has {seen:,} of the {claimed:,} that it claims")
        first = 0
    yield struct.pack("<q", END)


def frame(value: bytes | None) -> bytes:
    """One value."""
    if value is None:
        return struct.pack("<q", NOTHING)
    if len(value) > MOST_VALUE:
        return struct.pack("<q", TOO_LONG)
    return struct.pack("<q", len(value)) + value


def write_all(path: str, names: list[str], first: int, write: Callable[[bytes], object]) -> None:
    """Write all about a file, or as much as can be read and then why no more."""
    begun = False
    try:
        for piece in frames_of(path, names, first):
            write(piece)
            begun = True
    except BrokenPipeError:  # who asked has had enough
        return
    except MemoryError:
        write(told("it would take far more memory than its pages should", begun))
    except Exception as error:  # of the library
        first_line = " ".join((str(error).splitlines() or [type(error).__name__])[0].split())
        write(told(first_line.rstrip(".")[:200], begun))


def told(reason: str, begun: bool) -> bytes:
    """A problem, before or after the first line."""
    if not begun:
        return json.dumps({"error": reason}).encode() + b"\n"
    return struct.pack("<qq", BROKEN, len(reason.encode())) + reason.encode()


def main() -> None:
    """Read what the arguments name."""
    path, names, first = sys.argv[1:]
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        sys.stdout.buffer.write(b'{"missing": "pyarrow"}\n')
        return
    pyarrow.set_cpu_count(1)
    limit_memory()
    write = sys.stdout.buffer.write
    write_all(path, json.loads(names), int(first), write)
    try:
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        sys.stderr.close()


if __name__ == "__main__":
    main()
