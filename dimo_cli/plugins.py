"""Teachers, rewards and generators of installed packages, by their entry points."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any


def register_plugins(
    group: str, register: Callable[[str, Any], None], known: Container[str] = ()
) -> None:
    """Register what packages offer in an entry point group, but for names that are known."""
    from importlib.metadata import entry_points  # takes a while, and is hardly ever needed

    for entry in entry_points(group=group):
        if entry.name not in known:
            register(entry.name, entry.load())
