"""Random numbers as a function of a seed and a place, in integer arithmetic that any runtime has.

A number is a hash of 32 bits of its place in a stream, under two keys that a seed and the stream
make: counters in place of a state, as in Salmon et al. (2011, "Parallel random numbers: as easy as
1, 2, 3"). All of it is 64-bit arithmetic whose products stay below 2^63, so that no runtime's idea
of overflow matters. The seed of an image is its own: what else is in the batch changes nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOW = 2**32 - 1  # the lower half of 64 bits
FIRST, SECOND = 0x21F0AAAD, 0xD35A2D97 - 2**32
APART = 0x9E3779B9  # any number that is not 0, which the map leaves as it is
CODES, ORDER, EMBEDS, GUMBEL = 1, 2, 3, 5  # streams; the one behind EMBEDS is its second half


def scramble(x: Tensor) -> Tensor:
    """A one-to-one map of numbers of 32 bits in which every bit changes half of all others.

    Its form is Wellons' `lowbias32` (2018), its constants are better ones that were found since.
    """
    x = ((x ^ (x >> 16)) * FIRST) & LOW
    x = ((x ^ (x >> 15)) * SECOND) & LOW
    return x ^ (x >> 15)


def random_bits(seeds: Tensor, stream: int, count: int) -> Tensor:
    """Numbers [B, count] of 32 bits, of which no two are the same in a row, for seeds [B]."""
    low, high = seeds & LOW, (seeds >> 32) & LOW
    first = scramble(scramble(low ^ APART) ^ stream)
    second = scramble(scramble(scramble(high) ^ first) ^ APART)
    places = torch.arange(count, device=seeds.device)
    return scramble(scramble(places[None] ^ first[:, None]) ^ second[:, None])


def between(bits: Tensor) -> Tensor:
    """Numbers of 32 bits as numbers between 0 and 1, neither of which comes up."""
    return (bits.double() + 0.5) * 2.0**-32


def random_integers(seeds: Tensor, stream: int, high: int, count: int) -> Tensor:
    """Numbers [B, count] from 0 to `high` - 1."""
    return (random_bits(seeds, stream, count) * high) >> 32


def random_subset(seeds: Tensor, stream: int, chosen: int, count: int) -> Tensor:
    """A mask [B, count] with exactly `chosen` true entries a row."""
    bits = random_bits(seeds, stream, count)
    return bits <= bits.sort(-1).values[:, chosen - 1 : chosen]


def random_gumbel(seeds: Tensor, stream: int, count: int) -> Tensor:
    """Standard Gumbel noise [B, count]; in double precision on the way, which its tail needs."""
    return -(-between(random_bits(seeds, stream, count)).log()).log().float()


def random_normal(seeds: Tensor, stream: int, count: int) -> Tensor:
    """Standard normal noise [B, count], by the method of Box and Muller (1958)."""
    radius = (-2 * between(random_bits(seeds, stream, count)).log()).sqrt()
    angle = 2 * math.pi * between(random_bits(seeds, stream + 1, count))
    return (radius * angle.cos()).float()
