"""Teachers, rewards and generators of installed packages, by their entry points."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container
from typing import Any

log = logging.getLogger("dimo_cli.plugins")
BROKEN: set[tuple[str, str]] = set()
"""Group and name of those that could not be used: each is named once."""


def register_plugins(
    group: str, register: Callable[[str, Any], None], known: Container[str] = ()
) -> None:
    """Register what packages offer in an entry point group, but for names that are known.

    One that cannot be used is named in a warning, and keeps nobody from the others.
    """
    from importlib.metadata import entry_points  # takes a while, and is hardly ever needed

    for entry in entry_points(group=group):
        if entry.name in known or (group, entry.name) in BROKEN:
            continue
        try:
            register(entry.name, entry.load())
        except (Exception, SystemExit) as error:  # of whatever stands in that package
            BROKEN.add((group, entry.name))
            log.warning("%s", told(group, entry, error))


def told(group: str, entry: Any, error: BaseException) -> str:
    """Which plugin of which package cannot be used, and why."""
    package = getattr(getattr(entry, "dist", None), "name", None) or "an unknown package"
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return (
        f"Warning: `{entry.name}` ({group}) of {package} cannot be used and is left out: {reason}"
    )
