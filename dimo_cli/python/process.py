"""What is called leaves the process as it found it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.state import AcceleratorState, PartialState

from dimo_cli.distributed.ranks import is_alone

SHARED = (AcceleratorState, PartialState)


@contextmanager
def left_as_it_was() -> Iterator[None]:
    """Give back the random numbers, the choice of attention and the state of accelerate."""
    drawn = random.getstate()
    devices = range(torch.cuda.device_count())
    uses_cudnn = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        with torch.random.fork_rng(devices=devices), accelerate_anew():
            yield
    finally:
        random.setstate(drawn)
        torch.backends.cuda.enable_cudnn_sdp(uses_cudnn)


@contextmanager
def accelerate_anew() -> Iterator[None]:
    """Let a run choose device and precision, whatever was chosen before it in this process.

    accelerate keeps both in one place for the whole process, and refuses others.
    """
    if not is_alone():  # what connects the processes of a job is kept there, too
        yield
        return
    before = [dict(kind._shared_state) for kind in SHARED]
    try:
        exchange([{} for _ in SHARED])
        yield
    finally:
        exchange(before)


def exchange(states: list[dict[str, object]]) -> None:
    """Put other values in the place of what accelerate keeps."""
    for kind, state in zip(SHARED, states, strict=True):
        kind._shared_state.clear()
        kind._shared_state.update(state)
