"""Files that others made: what they claim is checked before any memory is given for it.

A header can promise an array of a terabyte, and a few kilobytes of zip can hold one.
"""

from __future__ import annotations

import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from dimo_cli.errors import MissingError

if TYPE_CHECKING:
    from pydantic import ValidationError

# Beyond these a network is a mistake that would take forever to build.
MOST, MOST_LAYERS = 1_000_000, 1_000
LAYERS = re.compile(r"depth|layers|blocks|^bits$")

MIB = 2**20
# Feature statistics and images shrink a few times at most; only nothing shrinks a hundredfold.
MOST_SHRUNK, ALWAYS_ALLOWED = 100, 256 * MIB
# What reading a damaged, encrypted or oddly packed archive can raise.
ARCHIVE_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError),
    *(RuntimeError, NotImplementedError, ValueError, OverflowError),
)
MOST_HEADER = 10_000  # characters of an array's header


class Untrusted(ValueError):
    """A file claims what cannot be; the message says in what, as part of a sentence."""


def check_archive(archive: zipfile.ZipFile) -> None:
    """Refuse a zip archive that would unpack to far more than any data does."""
    packed = archive.fp.seek(0, 2) if archive.fp else 0
    unpacked = sum(info.file_size for info in archive.infolist())
    if unpacked > max(ALWAYS_ALLOWED, MOST_SHRUNK * packed):
        raise Untrusted(
            f"it would unpack {packed:,} bytes to {unpacked:,}, as only a zip bomb does"
        )


def check_torch_archive(path: Path) -> None:
    """Refuse a file of torch with anything compressed in it: torch itself never does that."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(info.file_size for info in archive.infolist())
        if unpacked > path.stat().st_size:
            raise Untrusted(f"it claims to hold {unpacked:,} bytes and has {path.stat().st_size:,}")


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type of an array in numpy's format; the file is left where its bytes are."""
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, in_columns, dtype = read(file, max_header_size=MOST_HEADER)
    except Exception as error:  # numpy parses it as Python: any of its errors, MemoryError too
        raise Untrusted("it is no array of numpy, or damaged") from error
    if dtype.hasobject:
        raise Untrusted("it holds Python objects, which dimo never loads")
    if any(side < 0 for side in shape):
        raise Untrusted(f"it claims the shape {list(shape)}")
    return tuple(int(side) for side in shape), bool(in_columns), dtype


def read_array(file: IO[bytes], size: int) -> NDArray[Any]:
    """The array of a .npy file of `size` bytes, which must be as long as its header says."""
    start = file.tell()
    shape, in_columns, dtype = read_header(file)
    count = 1
    for side in shape:
        count *= side
    claimed = count * dtype.itemsize
    left = size - (file.tell() - start)
    if claimed != left:
        raise Untrusted(f"it claims {claimed:,} bytes of data and has {left:,}")
    content, filled = bytearray(claimed), 0
    while filled < claimed:
        read = file.readinto(memoryview(content)[filled:])  # type: ignore[attr-defined]
        if not read:
            raise Untrusted("it is truncated")
        filled += read
    array = np.frombuffer(content, dtype) if claimed else np.zeros(count, dtype)
    return array.reshape(shape, order="F" if in_columns else "C")


def parse_json(text: str | bytes) -> Any:
    """A JSON document; one that cannot be read is a ValueError, however it is broken."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def first_problem(error: ValidationError) -> tuple[str, str]:
    """Which field is wrong, with dots between its parts, and what is wrong with it."""
    first = error.errors()[0]
    return ".".join(str(part) for part in first["loc"]), first["msg"]


def as_list(value: Any) -> Sequence[Any]:
    """The items of a list or a tuple; none of anything else."""
    return value if isinstance(value, (list, tuple)) else ()


def check_sizes(config: Any, what: str, key: str = "") -> None:
    """Refuse a configuration file with a number that no network has, anywhere in it."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            check_sizes(value, what, str(name))
    for value in as_list(config):
        check_sizes(value, what, key)
    most = MOST_LAYERS if LAYERS.search(key) else MOST
    if type(config) is int and config > most:
        raise MissingError(
            f"{what} is damaged: `{key}` is more than {most:,}.", "Copy or download it again."
        )
