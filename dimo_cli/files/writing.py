"""Writing files so that a crash, a full disk or a power cut never leaves half of one."""

from __future__ import annotations

import errno
import hashlib
import io
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.files.reading import check_regular

if TYPE_CHECKING:
    from torch import Tensor, nn
    from typing_extensions import Buffer

CHUNK = 2**20
TEMPORARY = ".dimo.tmp"  # at the end of the name of a file that is being written
LEFT_OVER = re.compile(rf"\..+\.(\d+)-[0-9a-f]+{re.escape(TEMPORARY)}")
STALE_SECONDS = 3600  # after which nobody is still writing a file that he has not touched
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


@contextmanager
def whole_file(path: Path, durable: bool = True) -> Iterator[Path]:
    """A path beside `path` to write to; it becomes `path` when all went well.

    Nobody else writes to it: containers that share a folder may number their processes alike.
    What is cheap to make again need not be durable, which takes its time.
    """
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name}.{unique}{TEMPORARY}")
    try:
        temporary.touch()
        made = temporary.stat()
        tidy(path.parent, made.st_mtime - STALE_SECONDS)
        yield temporary
        temporary.chmod(made.st_mode)  # as the umask says: what safetensors writes is private
        if durable:
            fsync_path(temporary)
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    if durable:
        fsync_path(path.parent)


def write_whole_text(path: Path, text: str) -> None:
    """Write a text file whole, or leave the one that is there."""
    with whole_file(path) as temporary:
        # What of a folder's name is no UTF-8 is escaped: such a folder can hold a run too.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def tidy(folder: Path, untouched_since: float = math.inf) -> None:
    """Take away what killed processes left half written in a folder.

    Machines and containers may share a folder, and there a number that is no process here may be
    one: whoever has no lock on it takes away only what nobody has touched for long.
    """
    for path in folder.glob(f".*{TEMPORARY}"):
        match = LEFT_OVER.fullmatch(path.name)
        if match is None or is_alive(int(match.group(1))):
            continue
        with suppress(OSError):
            if path.stat().st_mtime < untouched_since:
                path.unlink()


def is_alive(process: int) -> bool:
    """Whether a number is that of a process of this machine, whoever started it."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


class PatientFile(io.FileIO):
    """A file that takes everything, and remembers what could not be written."""

    error: OSError | None = None

    def write(self, data: Buffer, /) -> int:
        """Write all of it, or keep the reason why not."""
        rest = memoryview(data).cast("B")
        while rest and self.error is None:
            try:
                rest = rest[super().write(rest) :]
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes


@contextmanager
def patient_file(path: Path) -> Iterator[PatientFile]:
    """A file for torch's writer of archives, which ends the process where a write fails.

    It is told that all went well; what did not is raised when it has gone.
    """
    with PatientFile(path, "w") as file:
        yield file
    if file.error is not None:
        raise file.error


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


def check_empty(folder: Path) -> None:
    """Refuse a folder with something in it, where all of it is to be what is written now."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SpecError(f"`{folder}` is not empty.", "Name a new folder; nothing is overwritten.")


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


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to fill; it becomes `path` when all went well."""
    temporary = path.with_name(f".tmp-{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
