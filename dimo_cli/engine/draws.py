"""Random numbers that are the same for a sample, however a step's batch is cut.

A step draws for its whole batch. Each of its passes, in whichever rank, draws for all samples and
keeps the rows of its own. So neither `train.accumulate` nor the number of ranks decides what is
drawn, and at the end of a step every rank's generator is where that of a single process would be.

What Python must know of a step (mask ratios, masks, conditions) comes from a generator on the
host: asked of a card, it would have to be waited for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

PIECE = 2**16  # numbers that stay in a cache

Make = Callable[[Sequence[int], torch.Generator], Tensor]

BLOCK = 2**24  # numbers drawn at once: the rows of others take no more memory than this


@dataclass(frozen=True, slots=True)
class Rows:
    """A generator for the `part`-th of `parts` equal blocks of a step's samples."""

    generator: torch.Generator
    part: int = 0
    parts: int = 1
    stacks: int = 1
    """How often the samples come in the rows, one stack of all of them after the other."""
    host: torch.Generator | None = None
    """Another generator for what Python must know; None: this one is on the host itself."""

    @property
    def device(self) -> torch.device:
        """Where numbers are drawn."""
        return self.generator.device

    def among(self, rows: int) -> tuple[int, list[slice]]:
        """The rows of all blocks where this one has `rows`, and which of them it keeps."""
        each = rows // self.stacks
        starts = [(stack * self.parts + self.part) * each for stack in range(self.stacks)]
        return rows * self.parts, [slice(start, start + each) for start in starts]


@dataclass(frozen=True, slots=True)
class Window:
    """A generator for the `kept` of the `total` rows that all blocks draw next."""

    generator: torch.Generator
    total: int
    kept: slice

    @property
    def device(self) -> torch.device:
        """Where numbers are drawn."""
        return self.generator.device

    def among(self, rows: int) -> tuple[int, list[slice]]:
        """As `Rows.among`; how many rows are kept is known already."""
        return self.total, [self.kept]


Source = torch.Generator | Rows | Window
"""A plain generator is for those who draw for themselves alone, such as samplers."""


def drawn(make: Make, shape: Sequence[int], source: Source) -> Tensor:
    """A draw of `shape`, whose first dimension are rows of samples."""
    if isinstance(source, torch.Generator):
        return make(shape, source)
    (total, kept), row = source.among(shape[0]), shape[1:]
    found = []
    for block in chunks(total, max(1, BLOCK // max(1, math.prod(row)))):
        numbers = make((block.stop - block.start, *row), source.generator)
        for part in kept:
            low, high = max(part.start, block.start), min(part.stop, block.stop)
            if low < high:
                found.append(numbers[low - block.start : high - block.start])
    if len(found) == 1:
        return found[0]
    return torch.cat(found) if found else numbers[:0]


def uniform(shape: Sequence[int], source: Source) -> Tensor:
    """Numbers from [0, 1)."""
    return drawn(lambda s, g: torch.rand(s, generator=g, device=g.device), shape, source)


def normal(shape: Sequence[int], source: Source, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers of N(0, 1)."""
    return drawn(
        lambda s, g: torch.randn(s, generator=g, device=g.device, dtype=dtype), shape, source
    )


def integers(high: int, shape: Sequence[int], source: Source) -> Tensor:
    """Numbers 0 to `high` - 1."""
    return drawn(lambda s, g: torch.randint(high, s, generator=g, device=g.device), shape, source)


def exponential(shape: Sequence[int], source: Source) -> Tensor:
    """Numbers of the exponential distribution with rate 1."""
    return drawn(_exponential, shape, source)


def own_generator(source: Source) -> torch.Generator:
    """For what is drawn once for a step and not for each of its samples."""
    return source if isinstance(source, torch.Generator) else source.generator


def host_generator(generator: torch.Generator) -> torch.Generator:
    """Where a run draws what Python must know: itself on a CPU, else a second one of its seed."""
    if generator.device.type == "cpu":
        return generator
    return torch.Generator("cpu").manual_seed(generator.initial_seed())


def on_host(source: Source) -> Source:
    """The source of what Python must know."""
    if isinstance(source, Rows) and source.host is not None:
        return replace(source, generator=source.host, host=None)
    return source


def samples_among(count: int, source: Source) -> tuple[int, slice]:
    """How many samples a step has where this source is for `count`, and which those are."""
    if isinstance(source, torch.Generator):
        return count, slice(count)
    total, (kept,) = source.among(count)
    return total, kept


def stacked(source: Source, stacks: int) -> Source:
    """The source for rows that are all samples again and again, one stack after the other."""
    return replace(source, stacks=stacks) if isinstance(source, Rows) else source


def chunks(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` that cover `count` rows."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def sourced_chunks(
    count: int, size: int, source: Source, row: Callable[[], Sequence[int]]
) -> Iterator[tuple[slice, Source]]:
    """Chunks of `count` rows, each with where its noise, of shape `row()` a row, comes from.

    The chunks are those of the whole step, and so is the noise. What belongs to the chunks of
    others alone is drawn and dropped.
    """
    if not isinstance(source, Rows):
        yield from ((part, source) for part in chunks(count, size))
        return
    total, (own,) = source.among(count)
    for part in chunks(total, size):
        start, stop = max(part.start, own.start), min(part.stop, own.stop)
        kept = slice(start - part.start, max(start, stop) - part.start)
        window = Window(source.generator, part.stop - part.start, kept)
        if start < stop:
            yield slice(start - own.start, stop - own.start), window
        else:
            exponential((0, *row()), window)


def _exponential(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """On a CPU the numbers of torch's own method, which takes three times as long."""
    found = torch.empty(shape, device=generator.device)
    if found.is_cpu:
        for part in found.view(-1).split(PIECE):
            u = torch.empty(len(part), dtype=torch.float64).uniform_(generator=generator)
            part.copy_(u.neg_().log1p_().neg_())
        return found
    return found.exponential_(generator=generator)
