"""Processes that share one job, as torchrun, `accelerate launch` or Slurm start them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

from dimo_cli.errors import MissingError, SpecError

T = TypeVar("T")


def own_rank() -> tuple[int, int]:
    """(rank, world) of a process that a launcher started; else (0, 1)."""
    return whole_number("RANK", 0), whole_number("WORLD_SIZE", 1)


def whole_number(variable: str, default: int) -> int:
    """A number that a launcher left in the environment."""
    text = os.environ.get(variable, "")
    try:
        return int(text) if text else default
    except ValueError:
        raise SpecError(
            f"The environment variable {variable} is {text!r}, which is no number.",
            "Launchers such as torchrun set it; without one, unset it.",
        ) from None


def is_first() -> bool:
    """Whether this process is the one that speaks and writes."""
    return own_rank()[0] == 0


@contextmanager
def joined_ranks() -> Iterator[None]:
    """Connect the processes of one job, each with a GPU of its own; alone, do nothing."""
    rank, world = own_rank()
    if world == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(whole_number("LOCAL_RANK", rank))
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        yield
    except (RuntimeError, ValueError) as error:
        if not is_lost_connection(error):
            raise
        raise MissingError(
            f"Process {rank} of {world} lost the others: one of them died, or cannot be reached.",
            "See what that process said last, then start the whole job again.",
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def is_lost_connection(error: Exception) -> bool:
    """Whether an error is of the connection between processes, by class or in words."""
    words = ("gloo", "connection", "rendezvous", "nccl", "environment variable")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)


def as_first_says(value: T) -> T:
    """The first process's value, in every process: what all of them have to agree on."""
    if not dist.is_initialized():
        return value
    told = [value]
    dist.broadcast_object_list(told, src=0)
    return told[0]
