"""Hashes of the files that were read: each is found once, and what a user accepted is remembered.

Both memories are in dimo's own cache, which nothing that is downloaded ever writes to.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from dimo_cli.files.writing import file_sha256, write_whole_text
from dimo_cli.hub.access import dimo_cache
from dimo_cli.hub.published import HubFile

HASHES, ACCEPTED = "hashes.json", "accepted.json"
MOST = 8 * 2**20  # bytes of a memory: a larger one is none of ours


def hash_of(path: Path) -> str:
    """The sha256 of a file's bytes; a file that has not changed since is not read again."""
    path = path.resolve()
    before = state_of(path)
    memory = recall(HASHES)
    match memory.get(str(path)):
        case [*state, str(known)] if state == before:
            return known
    found = file_sha256(path)
    if state_of(path) == before:
        kept = {name: entry for name, entry in memory.items() if Path(name).exists()}
        remember(HASHES, {**kept, str(path): [*before, found]})
    return found


def state_of(path: Path) -> list[int]:
    """What changes with a file's bytes; nobody can set its third number at will."""
    about = path.stat()
    return [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]


def accept(file: HubFile, sha256: str) -> None:
    """Remember that a user took other bytes for this file than those dimo knows."""
    memory = recall(ACCEPTED)
    memory[str(file)] = sorted({*accepted(file), sha256})
    remember(ACCEPTED, memory)


def accepted(file: HubFile) -> list[str]:
    """The hashes that a user accepted for a file, beside the one that dimo knows."""
    hashes = recall(ACCEPTED).get(str(file))
    return hashes if isinstance(hashes, list) else []


def recall(name: str) -> dict[str, Any]:
    """A memory; an empty one where there is none, or none that can be read."""
    path = dimo_cache() / name
    try:
        if path.stat().st_size > MOST:
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def remember(name: str, memory: dict[str, Any]) -> None:
    """Keep a memory, where there is a place for it: without one, files are hashed again."""
    with suppress(OSError):
        dimo_cache().mkdir(parents=True, exist_ok=True)
        write_whole_text(dimo_cache() / name, json.dumps(memory, indent=1))
