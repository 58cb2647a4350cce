"""Where the Hub and its caches are, and what a caller asks for instead of the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Access:
    """What a caller in Python asks for instead of the environment."""

    cache_dir: Path | None = None
    local_files_only: bool = False
    token: str | None = None


ACCESS: ContextVar[Access] = ContextVar("access", default=Access())  # noqa: B039 - it is frozen


@contextmanager
def hub_access(access: Access) -> Iterator[None]:
    """Until it is left, every download goes by `access`."""
    previous = ACCESS.set(access)
    try:
        yield
    finally:
        ACCESS.reset(previous)


def endpoint() -> str:
    """The Hub, or the mirror that HF_ENDPOINT names."""
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or constants.ENDPOINT


def home() -> Path:
    """The root of all Hugging Face caches."""
    from huggingface_hub import constants

    return Path(os.environ.get("HF_HOME") or constants.HF_HOME).expanduser()


def download_cache() -> Path:
    """Where downloaded files are kept."""
    named = ACCESS.get().cache_dir or os.environ.get("HF_HUB_CACHE")
    return Path(named).expanduser() if named else home() / "hub"


def dimo_cache() -> Path:
    """Where converted weights and prompt embeddings are kept."""
    return home() / "dimo"


def is_offline() -> bool:
    """Whether `local_files_only` or HF_HUB_OFFLINE asks to stay off the network."""
    named = os.environ.get("HF_HUB_OFFLINE", "").upper()
    return ACCESS.get().local_files_only or named in {"1", "ON", "YES", "TRUE"}


@dataclass(frozen=True, slots=True)
class Located:
    """A file on this machine, the commit it is of, and its hash where that is known."""

    path: Path
    commit: str | None = None
    sha256: str | None = None
