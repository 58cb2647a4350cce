"""Processes that share one job, as dimo's own launcher, torchrun or `accelerate launch` start them.

Whatever is not a rank's own is agreed on over the CPU, by gloo: what one says all others hear.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from dimo_cli.errors import MissingError, SpecError

T = TypeVar("T")

PATIENCE = timedelta(hours=2)  # with a rank that measures or downloads while the others wait


class LostRanks(MissingError):
    """Another process of the job is gone."""


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


def on_cpu() -> bool:
    """Whether this job was started on CPUs, or has nothing else."""
    wanted = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
    return wanted or not torch.cuda.is_available()


def sharding_wanted() -> bool:
    """Whether the launcher's configuration asks for sharding."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")


def is_alone() -> bool:
    """Whether there is no job to join; FSDP2 needs one even for a single process."""
    return own_rank()[1] == 1 and not (sharding_wanted() and "MASTER_ADDR" in os.environ)


@contextmanager
def joined_ranks() -> Iterator[None]:
    """Connect the processes of one job, each with a GPU of its own; alone, do nothing."""
    rank, world = own_rank()
    if is_alone() or dist.is_initialized():
        yield
        return
    if not on_cpu():
        torch.cuda.set_device(whole_number("LOCAL_RANK", rank))
    try:
        with stdout_for_results():
            dist.init_process_group("gloo" if on_cpu() else "cpu:gloo,cuda:nccl", timeout=PATIENCE)
            wait_for_all()
        yield
        part()
    except (RuntimeError, ValueError) as error:
        if not is_lost_connection(error):
            raise
        raise LostRanks(
            f"Process {rank} of {world} lost the others: one of them died, or cannot be reached.",
            "See what that process said last, then start the whole job again.",
        ) from error
    finally:
        # After an error on a GPU others may be in the middle of something: nothing to wait for.
        if on_cpu():
            part()


@contextmanager
def stdout_for_results() -> Iterator[None]:
    """Send what libraries say on stdout to stderr: Gloo of torch 2.8 tells of its connections."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def can_meet() -> bool:
    """Whether a launcher said where its processes find each other; Slurm alone does not."""
    return own_rank()[1] > 1 and "MASTER_ADDR" in os.environ


def are_joined() -> bool:
    """Whether this process is connected with others."""
    return dist.is_initialized()


def part() -> None:
    """Leave the others; from here on this process is on its own."""
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


def from_all(value: T) -> list[T]:
    """Every process's value, in their order."""
    if not dist.is_initialized():
        return [value]
    told: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(told, value)
    return told


def largest(*numbers: int) -> list[int]:
    """Of each number, the largest that any process has."""
    told = torch.tensor(numbers)
    if dist.is_initialized():
        dist.all_reduce(told, dist.ReduceOp.MAX)
    found: list[int] = told.tolist()
    return found


def wait_for_all() -> None:
    """Go on when every process has come this far."""
    largest(0)


@contextmanager
def first_ahead() -> Iterator[None]:
    """Let the first process of each machine go through before the others, which find it done."""
    is_ahead = whole_number("LOCAL_RANK", own_rank()[0]) == 0
    if not is_ahead:
        wait_for_all()
    yield
    if is_ahead:
        wait_for_all()
