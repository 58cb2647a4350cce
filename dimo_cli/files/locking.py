"""A folder that one process holds is refused to every other.

The kernel keeps the lock and lets go of it when the process ends in whatever way, so that no lock
is ever left over.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dimo_cli.errors import MissingError, SpecError

LOCK = ".lock"
# What a file system says that knows no locks.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)


def nobody_told(message: str) -> None:
    """Where nobody listens."""


@contextmanager
def locked(
    folder: Path,
    name: str = LOCK,
    say: Callable[[str], None] = nobody_told,
    shared: bool = False,
) -> Iterator[None]:
    """Hold a folder, which is made if need be; refused where another process holds it.

    Those who hold it `shared` hold it together, and nobody else does.
    """
    path, was_there = folder / name, folder.exists()
    check_name(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = acquire(path, say, shared)
    except OSError as error:
        raise MissingError(
            f"Cannot write to `{folder}`: {error.strerror}.", "Choose another folder with `--out`."
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):
            if shared:  # the last of them tidies up; the others are refused here
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()  # while it is still held, so that nobody else's is taken away
        os.close(handle)
        if not was_there:
            with suppress(OSError):
                folder.rmdir()  # what was refused leaves nothing: a folder that is not empty stays


def check_name(folder: Path) -> None:
    """Refuse a folder whose name is no text: safetensors could write into it, and never read."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(folder).decode("utf-8", "backslashreplace")
        raise SpecError(
            f"The name of the folder `{shown}` is not UTF-8.", "Choose another one with `--out`."
        ) from None


def refuse_if_locked(folder: Path, name: str = LOCK) -> None:
    """Refuse early what `locked` would refuse later, and leave no trace."""
    try:
        handle = os.open(folder / name, os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise in_use(folder, handle) from None
    except OSError:
        return
    finally:
        os.close(handle)


def is_locked(folder: Path, name: str = LOCK) -> bool:
    """Whether another process holds a folder right now."""
    try:
        refuse_if_locked(folder, name)
    except SpecError:
        return True
    return False


def acquire(path: Path, say: Callable[[str], None], shared: bool = False) -> int:
    """The handle of a lock file that this process holds, with its number in it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            problem = in_use(path.parent, handle)
            os.close(handle)
            raise problem from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(handle)
                raise
            say(f"The file system of `{path.parent}` has no locks: use it from one process only.")
        if is_still(handle, path):
            break
        os.close(handle)  # its holder has just removed it: take the one that is there now
    with suppress(OSError):  # the number is a courtesy; the lock holds without it
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()} {socket.gethostname()}".encode())
    return handle


def is_still(handle: int, path: Path) -> bool:
    """Whether an open file is the one that a path leads to."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def in_use(folder: Path, handle: int) -> SpecError:
    """The sentence for a folder that another process holds."""
    number, _, host = os.pread(handle, 256, 0).decode(errors="replace").partition(" ")
    elsewhere = f" on {host}" if host and host != socket.gethostname() else ""
    who = f"process {number}{elsewhere}" if number else "another process"
    stop = f"`kill {number}` lets it write a checkpoint first" if number else "let it finish"
    return SpecError(
        f"`{folder}` is in use by {who}.",
        f"Wait for it or stop it ({stop}), or choose another folder with `--out`.",
    )
