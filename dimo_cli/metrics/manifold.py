"""Precision, recall, density and coverage: who lies in whose nearest-neighbor balls.

A set's manifold is a ball around each image that reaches to its k-th nearest neighbor in the set.
Distances are compared as squares, block by block, so that memory is bounded and known in advance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from dimo_cli.data.arrays import Batch
from dimo_cli.errors import SpecError
from dimo_cli.metrics.frechet import refuse_nonfinite, sum_over_ranks
from dimo_cli.metrics.protocol import Features, Metric, Result

BLOCK_BUDGET = 1 << 30
"""Bytes that blocks of distances may take."""
PAIR_BYTES = 32
"""Of a pair in a block: its distance, a difference, three answers, and two indices at worst."""
NUMBER_BYTES = 36
"""Of a feature's number in a block: float64 rows and columns, and a pair that is settled."""
SPARE = 8
"""Neighbors looked at beyond the k-th, so that rounding cannot hide one of the k."""


@dataclass(frozen=True, slots=True)
class Manifold:
    """Shares of fakes among the reals and of reals among the fakes."""

    precision: float
    """Share of fakes inside some real ball."""
    recall: float
    """Share of reals inside some fake ball."""
    density: float
    """Real balls that a fake lies in, on average, over k: can exceed 1."""
    coverage: float
    """Share of reals with a fake in their own ball."""


def compare_manifolds(
    real: Tensor,
    fake: Tensor,
    *,
    k: int = 3,
    closed: bool = False,
    budget: int = BLOCK_BUDGET,
    device: torch.device | str = "cpu",
) -> Manifold:
    """All four numbers of features [N, D] and [M, D], exact in float64 whatever the blocks.

    Balls are open (`<`) as in PRDC, or closed (`<=`) as in ADM and torch-fidelity: that matters
    for ties only. Blocks are computed on `device`, which must know float64; the features may be
    elsewhere.
    """
    check_sets(real, fake, k + 1)
    rows = block_rows(real.shape[1], max(len(real), len(fake)), budget)
    real_radii, fake_radii = (squared_radii(x, k, rows, device) for x in (real, fake))
    inside = torch.le if closed else torch.lt
    balls = torch.zeros(len(fake), dtype=torch.int64, device=device)
    recalled, covered = (torch.zeros(len(real), dtype=torch.bool, device=device) for _ in range(2))
    for i in _blocks(len(real), rows):
        x, around_real = _load(real, i, device), real_radii[i, None].to(device)
        for j in _blocks(len(fake), rows):
            around_fake = fake_radii[None, j].to(device)
            squares, rounding = _squared_distances(x, _load(fake, j, device))
            close = (squares - around_real).abs_() <= rounding
            close |= (squares - around_fake).abs_() <= rounding
            _settle(squares, close, real[i], fake[j], rows)
            del close
            in_real = inside(squares, around_real)
            balls[j] += in_real.sum(0)
            covered[i] |= in_real.any(1)
            recalled[i] |= inside(squares, around_fake).any(1)
    return Manifold(
        precision=_share(balls > 0),
        recall=_share(recalled),
        density=int(balls.sum()) / (k * len(fake)),
        coverage=_share(covered),
    )


def squared_radii(
    features: Tensor, k: int, rows: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Squared distance [N] of each image to its k-th nearest neighbor, itself not counted."""
    radii = torch.empty(len(features), dtype=torch.float64)
    nearest = min(k + SPARE, len(features) - 1)
    for i in _blocks(len(features), rows):
        found = _nearest(features, i, nearest, rows, device).cpu()
        own = torch.arange(i.start, i.stop)
        exact = [exact_squares(features[own], features[other]) for other in found.unbind(1)]
        radii[i] = torch.stack(exact, 1).kthvalue(k).values
    return radii


def _nearest(
    features: Tensor, i: slice, nearest: int, rows: int, device: torch.device | str
) -> Tensor:
    """Numbers [rows, nearest] of the nearest other images of a block."""
    x = _load(features, i, device)
    squares = torch.empty(len(x), 0, dtype=torch.float64, device=device)
    numbers = torch.empty(len(x), 0, dtype=torch.int64, device=device)
    for j in _blocks(len(features), rows):
        block, _ = _squared_distances(x, _load(features, j, device))
        if i == j:
            block.fill_diagonal_(math.inf)
        best = block.topk(min(nearest, block.shape[1]), largest=False)
        del block
        squares = torch.cat([squares, best.values], 1)
        numbers = torch.cat([numbers, best.indices + j.start], 1)
        squares, kept = squares.topk(min(nearest, squares.shape[1]), largest=False)
        numbers = numbers.gather(1, kept)
    return numbers


def _squared_distances(x: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """|x - y|^2 of all pairs, and how far rounding can have moved one.

    One product of matrices is many times faster than differences, but cancels digits where images
    are near. So it is in float64, which leaves nine digits more than float32 features have, and
    the few pairs that it cannot tell from a radius are measured again by `exact_squares`. In
    float32 they would be far more, and a GPU's TF32 would lose neighbors.
    """
    norms_x, norms_y = (torch.einsum("nd,nd->n", z, z) for z in (x, y))
    squares = torch.addmm(norms_y, x, y.T, alpha=-2).add_(norms_x[:, None])
    largest = float(norms_x.max() + norms_y.max())
    return squares, 4 * x.shape[1] * torch.finfo(torch.float64).eps * largest


def exact_squares(x: Tensor, y: Tensor) -> Tensor:
    """|x - y|^2 row by row, to the last digit the same for the same two images.

    Always on the CPU: a GPU's order of summing depends on how many rows there are.
    """
    return (x.cpu().double() - y.cpu().double()).square_().sum(1)


def _settle(squares: Tensor, close: Tensor, x: Tensor, y: Tensor, rows: int) -> None:
    """Replace squares that are too close to a radius to compare by exact ones."""
    for pairs in close.nonzero().split(rows):
        i, j = pairs.unbind(1)
        exact = exact_squares(x[i.to(x.device)], y[j.to(y.device)])
        squares[i, j] = exact.to(squares.device)


def block_rows(dimensions: int, images: int, budget: int = BLOCK_BUDGET) -> int:
    """Rows and columns of a block that stays within a budget of bytes."""
    side = NUMBER_BYTES * dimensions / (2 * PAIR_BYTES)
    rows = int(math.sqrt(side * side + budget / PAIR_BYTES) - side)
    if rows < 1:
        raise SpecError(
            f"{budget} bytes are too few for distances between features of {dimensions} "
            "dimensions.",
            f"Allow at least {PAIR_BYTES + NUMBER_BYTES * dimensions} bytes.",
        )
    return min(rows, images)


def manifold_bytes(
    real: int, fake: int, dimensions: int, *, k: int = 3, budget: int = BLOCK_BUDGET
) -> int:
    """The most memory that `compare_manifolds` needs, with the float32 features of both sets."""
    rows = block_rows(dimensions, max(real, fake), budget)
    block = rows * (PAIR_BYTES * rows + NUMBER_BYTES * dimensions)
    neighbors = rows * (k + SPARE) * 8 * 6
    return bank_bytes(real + fake, dimensions) + block + neighbors + 32 * (real + fake)


def bank_bytes(images: int, dimensions: int) -> int:
    """Memory of a FeatureBank."""
    return images * (4 * dimensions + 1)


class FeatureBank:
    """The float32 features of all images of an evaluation, on the CPU, by the images' numbers.

    Several metrics may share one: a batch that each of them brings is kept once. Images are in
    the same order on any number of ranks, so that subsets and shuffles are the same, too.
    """

    def __init__(
        self, images: int, dimensions: int, facts: Mapping[str, Any] | None = None
    ) -> None:
        self.facts = dict(facts or {})
        """Network and reference: what every number of these features depends on."""
        self.dimensions = dimensions
        self.restart(images)

    def restart(self, images: int) -> None:
        """Be empty, with room for so many images."""
        self.rows = torch.zeros(images, self.dimensions)
        self.seen = torch.zeros(images, dtype=torch.uint8)
        self.reduced = False

    def add(self, features: Tensor, first: int) -> None:
        """Keep features [B, D] of the images from number `first` on."""
        end = first + len(features)
        if self.reduced or end > len(self.rows):
            raise ValueError(f"images {first}..{end} for a bank of {len(self.rows)}, or too late")
        if not self.seen[first:end].all():  # else another metric has brought the batch already
            refuse_nonfinite(features)
            self.rows[first:end] = features.detach().cpu()
            self.seen[first:end] = 1

    def reduce(self) -> None:
        """Collect the images of all ranks on each of them; doing it again changes nothing."""
        if not self.reduced:
            # An image is of one rank, and zero on the others: their sum is it, to the last bit.
            sum_over_ranks(self.rows)
            sum_over_ranks(self.seen)
            self.reduced = True

    def features(self) -> Tensor:
        """All features [N, D], once every image is in."""
        missing, twice = int((self.seen == 0).sum()), int((self.seen > 1).sum())
        if missing or twice:
            raise ValueError(f"{missing} images without features, {twice} on several ranks")
        return self.rows


class BankMetric(Metric):
    """A metric that needs the features of all images at once; metrics may share a bank."""

    def __init__(self, bank: FeatureBank) -> None:
        self.bank = bank

    def add(self, features: Features, batch: Batch) -> None:
        """Take in the features of a batch."""
        self.bank.add(features.vectors, batch.first)

    def restart(self, images: int) -> None:
        """Empty the bank, which may be shared."""
        self.bank.restart(images)

    def reduce(self) -> None:
        """Collect the features of all ranks."""
        self.bank.reduce()


class PrecisionRecall(BankMetric):
    """Precision, recall, density and coverage against the features of a reference."""

    def __init__(
        self,
        reference: Tensor,
        bank: FeatureBank,
        *,
        k: int = 3,
        closed: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(bank)
        self.reference = reference
        self.k = k
        self.closed = closed
        self.device = device

    def results(self) -> list[Result]:
        """Four numbers, such as `precision_k3`."""
        real, fake = self.reference, self.bank.features()
        found = compare_manifolds(real, fake, k=self.k, closed=self.closed, device=self.device)
        protocol = {
            "images": len(fake),
            "reference_images": len(real),
            "k": self.k,
            "comparison": "<=" if self.closed else "<",
            **self.bank.facts,
        }
        return [
            Result(f"{name}_k{self.k}", value, protocol) for name, value in asdict(found).items()
        ]


def check_sets(real: Tensor, fake: Tensor, needed: int) -> None:
    """Refuse sets that cannot be compared: of other dimensions, or of too few images."""
    if real.shape[1] != fake.shape[1]:
        raise SpecError(
            f"Real features of {real.shape[1]} dimensions and fake ones of {fake.shape[1]} cannot "
            "be compared.",
            "Use a reference that was made with the same feature network.",
        )
    for name, features in (("real", real), ("fake", fake)):
        if len(features) < needed:
            raise SpecError(
                f"At least {needed} {name} images are needed here, but there are {len(features)}.",
                "Generate more images, or take a larger reference.",
            )
        refuse_nonfinite(features)


def short_count(images: int) -> str:
    """50k for 50,000 images: a number says how many it is of."""
    return f"{images // 1000}k" if images and images % 1000 == 0 else str(images)


def _blocks(images: int, rows: int) -> Iterator[slice]:
    return (slice(i, min(i + rows, images)) for i in range(0, images, rows))


def _load(features: Tensor, rows: slice, device: torch.device | str) -> Tensor:
    """A block in float64, where it is computed."""
    return features[rows].to(device).double()


def _share(answers: Tensor) -> float:
    return int(answers.sum()) / len(answers)
