"""Writing files so that a crash, a full disk or a power cut never leaves half of one."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor, nn

from dimo_cli.errors import MissingError
from dimo_cli.files.reading import check_regular

CHUNK = 2**20
OLD = ".old-"  # in front of the name of a folder that is being replaced
# What a disk or a folder can be the cause of; other errors are left as they are.
DISK_ERRORS = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS),
        *(errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.ENAMETOOLONG),
    }
)


def fsync_path(path: Path) -> None:
    """Make what was written to a file or folder survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole_text(path: Path, text: str) -> None:
    """Write a text file whole, or leave the one that is there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        fsync_path(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_path(path.parent)


def check_writable(folder: Path, option: str) -> None:
    """Refuse a folder that could not be written to, before anything is worked out for it."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    reason = None if place.is_dir() else f"`{place}` is a file"
    if reason is None and not os.access(place, os.W_OK | os.X_OK):
        reason = f"no permission to write to `{place}`"
    if reason:
        raise MissingError(f"`{option}` is `{folder}`: {reason}.", "Choose another folder.")


def file_sha256(path: Path) -> str:
    """Hash of a file of any size."""
    check_regular(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def disk_reason(error: Exception, folder: Path) -> str | None:
    """Why a folder could not be written to; None where an error has another cause."""
    if isinstance(error, SafetensorError):  # it tells errors of the disk in words alone
        return str(error) if "os error" in str(error).lower() else None
    if not isinstance(error, OSError) or error.errno not in DISK_ERRORS:
        return None
    if error.filename is not None and not is_within(Path(os.fsdecode(error.filename)), folder):
        return None
    return error.strerror or str(error)


def is_within(path: Path, folder: Path) -> bool:
    """Whether a path is a folder or below it."""
    return path.absolute().is_relative_to(folder.absolute())


@contextmanager
def writing_to(folder: Path, hint: str) -> Iterator[None]:
    """Say in a sentence why a folder could not be written to, and what to do next."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = disk_reason(error, folder)
        if reason is None:
            raise
        raise MissingError(f"Cannot write to `{folder}`: {reason}.", hint) from error


def replace_folder(temporary: Path, final: Path) -> None:
    """Rename a finished folder into place, over an older one of the same name."""
    for path in [*temporary.iterdir(), temporary]:
        fsync_path(path)
    old = final.with_name(f"{OLD}{final.name}")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    temporary.rename(final)
    fsync_path(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def contiguous(network: nn.Module) -> dict[str, Tensor]:
    """A state dict that safetensors can write."""
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
