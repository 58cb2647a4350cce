"""Files of torch: read only once it is known what they would make.

Both formats are: the zip archive of today, and the pickles one after the other of before 2020. The
third one, a tar archive, is refused: torch unpacks it.
"""

from __future__ import annotations

import mmap
import tarfile
from pathlib import Path
from typing import Any

import torch

from dimo_cli.files.reading import check_regular
from dimo_cli.files.torch_programs import Program
from dimo_cli.files.untrusted import MIB, Untrusted, check_torch_archive

ZIP = b"PK\x03\x04"
MOST_PROGRAM = 64 * MIB  # names, shapes and numbers; a tensor takes some hundred bytes


def load_torch(path: Path, *, mapped: bool = False) -> Any:
    """What a file of torch holds; one that would make more than it has is `Untrusted`.

    With `mapped`, tensors stay in the file until they are used, where its format allows that.
    """
    check_regular(path)
    is_archive = starts_as_zip(path)
    if is_archive:
        check_archived_program(path)
    else:
        check_old_programs(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and is_archive)


def starts_as_zip(path: Path) -> bool:
    """Whether torch takes a file for an archive: its first bytes decide."""
    with path.open("rb") as file:
        return file.read(len(ZIP)) == ZIP


def check_archived_program(path: Path) -> None:
    """Refuse an archive whose pickle is more than a state dict."""
    check_torch_archive(path)
    # Of two members with one name, this reader takes the one that torch will take.
    program = torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")
    if len(program) > MOST_PROGRAM:
        raise Untrusted(f"it describes its tensors in {len(program):,} bytes")
    Program(path.stat().st_size).run(program)


def check_old_programs(path: Path) -> None:
    """Refuse a file of the old format whose pickles are more than a state dict."""
    if path.stat().st_size == 0:
        raise Untrusted("it is empty")
    if tarfile.is_tarfile(path):
        raise Untrusted("it is a tar archive, a format of torch from 2016 that dimo does not read")
    program = Program(path.stat().st_size)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # A magic number, a version, facts of a machine, the state dict, and names of storages.
        for _ in range(5):
            program.run(content)  # type: ignore[arg-type]  # it reads like a file
            if content.tell() > MOST_PROGRAM:
                raise Untrusted(f"it describes its tensors in {content.tell():,} bytes")
