"""A fast start, and a fast end, of commands that draw one image."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Import torch without looking for garbage in what it makes, then or at exit: all is kept."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
