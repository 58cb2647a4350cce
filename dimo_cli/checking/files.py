"""One file at a time: what is wrong with it, as part of a sentence; None where it is sound."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from dimo_cli.errors import DimoError
from dimo_cli.files.reading import check_regular
from dimo_cli.files.sound import is_finite
from dimo_cli.files.writing import CHUNK, file_sha256

SHA256, SHA1 = re.compile(r"^[0-9a-f]{64}$"), re.compile(r"^[0-9a-f]{40}$")


@dataclass(frozen=True, slots=True)
class Check:
    """Something that can be read again, by its name in what is checked."""

    name: str
    path: Path
    problem: Callable[[], str | None]


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of it."""

    name: str
    bytes: int
    problem: str | None


def carried_out(check: Check) -> Checked:
    """Read something again."""
    try:
        size = check.path.stat().st_size if check.path.is_file() else 0
        return Checked(check.name, size, check.problem())
    except OSError as error:
        return Checked(check.name, 0, f"cannot be read: {error.strerror or error}")
    except DimoError as error:
        return Checked(check.name, size, error.message)


def wrong_hash(path: Path, sha256: str) -> str | None:
    """Whether a file has the bytes that its hash was taken of."""
    if not path.is_file():
        return "is missing"
    return None if file_sha256(path) == sha256 else "has other bytes than were written"


def wrong_blob(path: Path) -> str | None:
    """Whether a file of the Hub's cache has the hash that it is called by."""
    if SHA256.match(path.name):
        return wrong_hash(path, path.name)
    check_regular(path)
    if SHA1.match(path.name) and git_hash(path) != path.name:
        return "has other bytes than were downloaded"
    return None


def git_hash(path: Path) -> str:
    """The hash that git, and so the Hub, gives to a small file."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def wrong_weights(path: Path, may_be_infinite: bool = False) -> str | None:
    """Whether weights can be read, and all of them are finite.

    What others published may hold a mask of infinities among its weights.
    """
    bad = []
    check_regular(path)
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                tensor = file.get_tensor(name)
                if tensor.isnan().any() if may_be_infinite else not is_finite(tensor):
                    bad.append(name)
    except (SafetensorError, RuntimeError, ValueError) as error:
        return f"cannot be read: {' '.join(str(error).split())[:120]}"
    more = f" and {len(bad) - 1} more" if bad[1:] else ""
    return f"has weights that are not finite: {bad[0]}{more}" if bad else None
