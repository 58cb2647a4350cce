"""What belongs to a folder: a page that is made to be passed on shows nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def leads_out(folder: Path, path: Path) -> bool:
    """Whether a file of a folder is, or is reached by, a link to somewhere else."""
    return not path.resolve().is_relative_to(folder.resolve())


def own_files(folder: Path, paths: Iterable[Path], told: list[str]) -> list[Path]:
    """The files among them that are there and in the folder; links out of it are told of."""
    there = [path for path in paths if path.is_file()]
    inside = [path for path in there if not leads_out(folder, path)]
    if strays := [path for path in there if path not in inside]:
        name = strays[0].relative_to(folder)
        others = f" and {len(strays) - 1} more" if len(strays) > 1 else ""
        told.append(f"{name}{others}: left out, as a link leads to it outside of this folder.")
    return inside


def own_file(folder: Path, name: str, told: list[str]) -> Path | None:
    """A file of a folder; None where there is none, or only a link out of it."""
    return next(iter(own_files(folder, [folder / name], told)), None)
