"""Row-wise functions as one kernel each: on a card the same functions, compiled.

A card reads and writes every temporary tensor of a plain function in turn, which takes most of the
time of a loss over a large vocabulary. On a CPU, whose caches hold a chunk, nothing is to be won.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

unavailable: str | None = None
"""Why nothing is compiled on this machine, once that was found out."""
untold: list[str] = []
"""The same, until somebody has taken it to tell it."""


def fused(function: Callable[P, R]) -> Callable[P, R]:
    """The function; on a card it is compiled, for any number of rows.

    Its first argument is a tensor. Where there is no compiler it runs as it is.
    """
    compiled: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        global unavailable
        first = args[0]
        assert isinstance(first, Tensor)
        if first.device.type != "cuda" or unavailable is not None:
            return function(*args, **kwargs)
        for tensor in args:
            if isinstance(tensor, Tensor):
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        if not compiled:
            compiled.append(torch.compile(function))
        try:
            found: R = compiled[0](*args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # no compiler, or one that does not know this card
            unavailable = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            untold.append(
                f"The losses are not compiled, which costs time and memory: {unavailable}"
            )
            return function(*args, **kwargs)
        return found

    return run
