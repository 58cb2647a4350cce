"""A fast start of commands that draw one image and end."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Import torch without looking for garbage: of the objects that it makes, all are kept."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
