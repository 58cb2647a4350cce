"""An npz file whose arrays are read by name; anything but numbers and text is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from numpy.lib import format as npy
from numpy.typing import NDArray

from dimo_cli.errors import SpecError
from dimo_cli.files.reading import check_regular
from dimo_cli.files.untrusted import Untrusted, check_archive, read_array


class Npz:
    """The arrays of an npz file; no more is read, and no more memory taken, than the file holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        check_regular(path)
        with path.open("rb") as file:
            is_single = file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX
        if is_single:
            raise SpecError(
                f"`{path}` holds a single array, not a reference.",
                "A reference is an npz with `mu` and `sigma`, or with images in `arr_0`.",
            )
        try:
            self.archive = zipfile.ZipFile(path)
            check_archive(self.archive)
        except Exception as error:  # a damaged archive can raise anything
            why = f": {error}" if isinstance(error, Untrusted) else ""
            raise SpecError(
                f"`{path}` is no readable npz file{why}.", "Copy or download it again."
            ) from error
        self.files = [name.removesuffix(".npy") for name in self.archive.namelist()]

    def __enter__(self) -> Npz:
        return self

    def __exit__(self, *error: object) -> None:
        self.archive.close()

    def __getitem__(self, name: str) -> NDArray[Any]:
        try:
            member = self.archive.getinfo(f"{name}.npy")
            with self.archive.open(member) as file:
                return read_array(file, member.file_size)
        except Exception as error:  # of zip, of what it is packed with, or of numpy
            why = str(error) if isinstance(error, Untrusted) else "it is missing or damaged"
            raise SpecError(
                f"`{name}` in `{self.path}` cannot be read: {why}.", "Copy or download it again."
            ) from error
