"""Weights and tables that ship in the package."""

from __future__ import annotations

from importlib.resources import files


def builtin_path(name: str) -> str:
    """Path of a file that ships inside the package."""
    return str(files(__name__) / name)
