"""Teachers, rewards, objectives and generators of installed packages, by their entry points."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterator
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
    for entry in offered(group):
        if entry.name in known or (group, entry.name) in BROKEN:
            continue
        try:
            register(entry.name, entry.load())
        except (Exception, SystemExit) as error:  # of whatever stands in that package
            BROKEN.add((group, entry.name))
            log.warning("%s", told(group, entry, error))


def offered(group: str) -> Iterator[Any]:
    """The entry points of a group; a package whose metadata cannot be read offers none."""
    from importlib.metadata import distributions, entry_points  # takes a while, hardly ever needed

    try:
        yield from entry_points(group=group)
        return
    except Exception:  # of one package among all: they are asked one by one
        packages = list(distributions())
    for package in packages:
        try:
            yield from [entry for entry in package.entry_points if entry.group == group]
        except Exception as error:
            place = str(getattr(package, "_path", package))
            if ("", place) not in BROKEN:
                BROKEN.add(("", place))
                log.warning(
                    "%s",
                    f"Warning: the metadata of a package cannot be read, and its plugins are left "
                    f"out: `{place}`: {in_short(error)}",
                )


def told(group: str, entry: Any, error: BaseException) -> str:
    """Which plugin of which package cannot be used, and why."""
    return (
        f"Warning: `{entry.name}` ({group}) of {package_of(entry)} cannot be used and is left out: "
        f"{in_short(error)}"
    )


def package_of(entry: Any) -> str:
    """The name of the package that offers a plugin, as far as its metadata tells."""
    try:
        return str(entry.dist.name or "an unknown package")
    except Exception:  # of metadata that is missing or damaged
        return "an unknown package"


def in_short(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
