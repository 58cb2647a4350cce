"""Which samples of a step's batch a rank computes, and in how many passes.

A step has `train.batch_size` x `train.accumulate` samples, however many ranks there are. Each rank
gets as many as every other, in passes of at most `train.micro_batch`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from dimo_cli.engine.draws import Rows
from dimo_cli.errors import SpecError
from dimo_cli.specs.train import TrainSpec


@dataclass(frozen=True, slots=True)
class Share:
    """The passes of one rank: `passes` of `batch` samples, which start with sample `first`."""

    batch: int
    passes: int
    first: int
    samples: int
    """Samples of the whole step."""

    def streams(
        self, generator: torch.Generator, host: torch.Generator | None = None
    ) -> list[Rows]:
        """Where each pass of the next step gets its random numbers from.

        All start where `generator` is; it serves the last pass itself, and so goes on from where
        the step ends. So it is with `host`, which is given where it is another one.
        """
        parts, part = self.samples // self.batch, self.first // self.batch
        own = self.copies(generator)
        own_host: Sequence[torch.Generator | None] = [None] * self.passes
        if host is not None and host is not generator:
            own_host = self.copies(host)
        return [
            Rows(own[index], part + index, parts, host=own_host[index])
            for index in range(self.passes)
        ]

    def copies(self, generator: torch.Generator) -> list[torch.Generator]:
        """A generator for each pass, all at the same place; the last is the given one."""
        others = [generator.clone_state() for _ in range(self.passes - 1)]
        return [*others, generator]


def largest_divisor(samples: int, most: int) -> int:
    """The largest number up to `most` that divides `samples` evenly; 0 where there is none."""
    sizes = range(1, min(samples, most) + 1)
    return max((size for size in sizes if samples % size == 0), default=0)


def smallest_divisor(samples: int, least: int) -> int:
    """The smallest number from `least` on that divides `samples` evenly; all where none does."""
    return next((size for size in range(least, samples) if samples % size == 0), samples)


def divide(train: TrainSpec, rank: int = 0, world: int = 1, least: int = 1) -> Share:
    """The share of a rank, refused where not every rank would get as much as every other.

    So is one whose passes would have fewer than `least` samples.
    """
    samples = train.batch_size * train.accumulate
    if samples % world:
        fitting = [str(n) for n in range(1, min(samples, 4 * world) + 1) if samples % n == 0]
        raise SpecError(
            f"The {samples} samples of a step (`train.batch_size` {train.batch_size} x "
            f"`train.accumulate` {train.accumulate}) cannot be divided evenly among {world} "
            "processes.",
            f"Use another number of processes (such as {', '.join(fitting)}) or another batch.",
        )
    each = samples // world
    batch = largest_divisor(each, train.pass_size)
    if batch < least:
        raise SpecError(
            f"Samples of a pass are compared with one another in this run, and the {each} of a "
            f"process are computed in passes of {batch}.",
            f"Let `train.micro_batch` divide them in passes of {least} or more, or use a larger "
            "batch or fewer processes.",
        )
    return Share(batch, each // batch, rank * each, samples)


def halved(share: Share, least: int = 1) -> Share | None:
    """The same samples in passes of at most half as many; None where they would be too few."""
    batch = largest_divisor(share.batch, share.batch // 2)
    if batch < least:
        return None
    return replace(share, batch=batch, passes=share.passes * (share.batch // batch))


def local_train(train: TrainSpec, share: Share) -> TrainSpec:
    """The loop as one rank carries it out."""
    own = {"batch_size": share.batch, "accumulate": share.passes, "micro_batch": share.batch}
    return train.model_copy(update=own)


def mean_over_ranks(numbers: Sequence[Tensor]) -> list[Tensor]:
    """The mean of each number over all ranks: the same in every process."""
    if not numbers or not (dist.is_available() and dist.is_initialized()):
        return list(numbers)
    together = torch.stack([number.detach() for number in numbers])
    dist.all_reduce(together)
    return list(together / dist.get_world_size())


def mean_values(values: Mapping[str, float]) -> dict[str, float]:
    """The mean of each value over all ranks, which have the same names."""
    names = sorted(values)
    means = mean_over_ranks([torch.tensor(values[name], dtype=torch.float64) for name in names])
    found = {name: mean.item() for name, mean in zip(names, means, strict=True)}
    return {name: found[name] for name in values}
