"""torch.compile where it pays: one graph for all blocks that are alike, and a way back.

A network of 24 alike blocks is compiled as one block, whose weights are inputs of the graph. That
is done once for each way a block is used (with gradients and without, at each batch size), and kept
on disk for the next run. Whatever cannot be compiled runs as it is, and somebody is told why.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from dimo_cli.hub.access import dimo_cache
from dimo_cli.teachers.protocol import Backbone

Say = Callable[[str], None]

# Ways that one kind of block can be used in: precision, batch, gradients, one with the other.
MOST_GRAPHS = 64
BACKEND = "inductor"
BACKWARD = {
    # A backward is compiled with its forward: left for later, its errors would end the run.
    "force_non_lazy_backward_lowering": True,
    # Norms and activations are computed again on the way back rather than kept: next to the matrix
    # products they cost little time, and kept they are half of a step's memory.
    "ban_recompute_materialized_backward": False,
    "ban_recompute_used_far_apart": False,
    "ban_recompute_long_fusible_chains": False,
}


class Compiled:
    """A function that is compiled when it is first called, and runs plainly where it cannot be."""

    def __init__(self, function: Callable[..., Any], say: Say, dynamic: bool | None) -> None:
        self.function, self.say = function, say
        self.fast = torch.compile(function, dynamic=dynamic, backend=BACKEND)
        self.failed = False

    def __call__(self, *inputs: Any) -> Any:
        if self.failed:
            return self.function(*inputs)
        try:
            return self.fast(*inputs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if not is_of_the_compiler(error):
                raise
            self.failed = True
            reason = " ".join(str(error).split())[:160]
            self.say(f"torch.compile failed, so this run goes on without it, slower: {reason}")
            return self.function(*inputs)


def is_of_the_compiler(error: BaseException | None) -> bool:
    """Whether an error is of torch.compile itself, and not of what it was to compile."""
    while error is not None:
        kinds = (cls.__module__ for cls in type(error).__mro__)
        if any(name.startswith(("torch._dynamo", "torch._inductor", "triton")) for name in kinds):
            return True
        error = error.__cause__
    return False


@cache
def prepare() -> None:
    """Keep compiled code between runs, and let one kind of block be used in many ways."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(dimo_cache() / "compiled"))
    torch._dynamo.config.recompile_limit = MOST_GRAPHS
    torch._dynamo.config.accumulated_recompile_limit = 16 * MOST_GRAPHS
    for name, value in BACKWARD.items():
        if hasattr(torch._functorch.config, name):  # versions of torch differ in what they know
            setattr(torch._functorch.config, name, value)


def compiled(
    function: Callable[..., Any], say: Say = lambda line: None, dynamic: bool | None = None
) -> Compiled:
    """A function, compiled; `dynamic` ones are for sizes that change from call to call."""
    prepare()
    return Compiled(function, say, dynamic)


def compile_blocks(backbone: Backbone, say: Say = lambda line: None) -> None:
    """Let a network run its blocks compiled from now on."""
    backbone.call_block = block_caller(type(backbone), say)


@cache
def block_caller(family: type[Backbone], say: Say) -> Compiled:
    """What runs the blocks of a family: the same for all its networks, which share the graphs."""

    def call(block: Callable[..., Any], *inputs: Any) -> Any:
        return block(*inputs)

    # Graphs are looked up by a function's code: a copy for each family keeps each list short.
    call.__code__ = call.__code__.replace(co_name=f"call_block_of_{family.__name__}")
    return compiled(call, say, dynamic=False)
