"""KID, the kernel distance: unbiased MMD^2 with a cubic kernel, averaged over random subsets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dimo_cli.metrics.manifold import BankMetric, FeatureBank, check_sets, short_count
from dimo_cli.metrics.protocol import Result

Blocks = tuple[Tensor, Tensor, Tensor]
"""Kernel of real with real, fake with fake, real with fake."""
WHOLE_BYTES = 1 << 29
"""Up to this size the kernel of the whole sets is kept instead of made anew for each subset."""


@dataclass(frozen=True, slots=True)
class Subsets:
    """How subsets are drawn, without replacement; the defaults are those of clean-fid, seeded."""

    count: int = 100
    size: int = 1000
    seed: int = 0
    convention: Literal["clean-fid", "torch-fidelity"] = "clean-fid"
    """clean-fid draws the fakes first and takes smaller subsets of smaller sets;
    torch-fidelity draws the reals first, seeds with 2020 and wants sets of at least `size`."""

    @property
    def needed(self) -> int:
        """The fewest images that each set must have."""
        return self.size if self.convention == "torch-fidelity" else 2

    def draw(self, real: int, fake: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Numbers of the real and of the fake images of each subset."""
        # The legacy generator, because the published numbers are drawn with it.
        random, size = np.random.RandomState(self.seed), min(real, fake, self.size)
        sets = (fake, real) if self.convention == "clean-fid" else (real, fake)
        for _ in range(self.count):
            drawn = [torch.from_numpy(random.choice(n, size, replace=False)) for n in sets]
            yield (drawn[1], drawn[0]) if self.convention == "clean-fid" else (drawn[0], drawn[1])


@dataclass(frozen=True, slots=True)
class KernelDistance:
    """Mean and (population) standard deviation over the subsets."""

    mean: float
    std: float


def kernel_distance(real: Tensor, fake: Tensor, subsets: Subsets | None = None) -> KernelDistance:
    """KID between features [N, D] and [M, D], in float64."""
    subsets = subsets or Subsets()
    check_sets(real, fake, subsets.needed)
    n, m = len(real), len(fake)
    size = min(n, m, subsets.size)
    pairs = n * n + m * m + n * m
    cheaper_whole = pairs <= 3 * subsets.count * size * size and 8 * pairs <= WHOLE_BYTES
    draws = [(i.to(real.device), j.to(fake.device)) for i, j in subsets.draw(n, m)]
    if cheaper_whole:
        values = _distances_at_once(_kernels(real, fake), draws)
    else:
        values = [_distance(_kernels(real[i], fake[j])) for i, j in draws]
    return KernelDistance(float(np.mean(values)), float(np.std(values)))


def _kernels(real: Tensor, fake: Tensor) -> Blocks:
    """(x.y / d + 1)^3 of all pairs."""
    x, y = real.double(), fake.double()
    real_real, fake_fake, real_fake = (
        (a @ b.T).div_(x.shape[1]).add_(1).pow_(3) for a, b in ((x, x), (y, y), (x, y))
    )
    return real_real, fake_fake, real_fake


def _distance(kernels: Blocks) -> float:
    """Unbiased MMD^2 of two sets of m images: no image is paired with itself."""
    real_real, fake_fake, real_fake = kernels
    m = len(real_fake)
    own = sum(k.sum() - k.trace() for k in (real_real, fake_fake))
    return float(own / (m * (m - 1)) - 2 * real_fake.mean())


def _distances_at_once(kernels: Blocks, draws: list[tuple[Tensor, Tensor]]) -> list[float]:
    """The same of each subset [m] of two whole sets: w^T K w sums over those with weight 1."""
    real_real, fake_fake, real_fake = kernels
    m = len(draws[0][0])
    real, fake = (
        torch.zeros(len(k), len(draws), dtype=k.dtype, device=k.device)
        for k in (real_real, fake_fake)
    )
    for subset, (i, j) in enumerate(draws):
        real[i, subset], fake[j, subset] = 1, 1
    own = sum(
        (w * (k @ w)).sum(0) - k.diagonal() @ w for k, w in ((real_real, real), (fake_fake, fake))
    )
    between = (real * (real_fake @ fake)).sum(0)
    return (own / (m * (m - 1)) - 2 * between / m**2).tolist()


class Kid(BankMetric):
    """KID against the features of a reference; `bank` may be shared with other metrics."""

    def __init__(
        self, reference: Tensor, bank: FeatureBank, subsets: Subsets | None = None
    ) -> None:
        super().__init__(bank)
        self.reference = reference
        self.subsets = subsets or Subsets()

    def results(self) -> list[Result]:
        """One number, with its spread over the subsets."""
        real, fake = self.reference, self.bank.features()
        distance = kernel_distance(real, fake, self.subsets)
        protocol = {
            "images": len(fake),
            "reference_images": len(real),
            "subsets": self.subsets.count,
            "subset_size": min(len(real), len(fake), self.subsets.size),
            "seed": self.subsets.seed,
            "draws": self.subsets.convention,
            **self.bank.facts,
        }
        return [
            Result(f"kid{short_count(len(fake))}", distance.mean, protocol, {"std": distance.std})
        ]
