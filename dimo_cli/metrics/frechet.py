"""The Frechet distance between two Gaussians, from float64 running sums."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from scipy.linalg import lapack
from torch import Tensor

from dimo_cli.errors import SpecError

PART = 1 << 24
"""Numbers that ranks exchange at once: 128 MiB of float64."""


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Mean and covariance of a set of features, and how many there were (0: not known)."""

    mean: Tensor
    covariance: Tensor
    count: int

    @property
    def rank_deficient(self) -> bool:
        """Whether there were too few images for a covariance of full rank."""
        return 0 < self.count <= len(self.mean)

    @property
    def warning(self) -> str | None:
        """What a reader of the distance should know, if anything."""
        if not self.rank_deficient:
            return None
        return (
            f"{self.count} images cannot span {len(self.mean)} feature dimensions: the covariance "
            f"is singular and the distance biased. Use more than {len(self.mean)} images."
        )


class RunningGaussian:
    """Sums n, x and x x^T in float64, where the features are; ranks may simply add their sums."""

    def __init__(self, dimensions: int) -> None:
        self.count = 0
        self.total = torch.zeros(dimensions, dtype=torch.float64)
        self.outer = torch.zeros(dimensions, dimensions, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Count a batch of features [B, D]."""
        refuse_nonfinite(features)
        if self.count == 0 and features.is_cuda:
            with torch.inference_mode(False):  # or they could not be reduced outside of it
                self.total = self.total.to(features.device)
                self.outer = self.outer.to(features.device)
        # First the device, then the type: not every device has float64.
        x = features.detach().to(self.total.device).double()
        self.count += len(x)
        self.total += x.sum(0)
        self.outer.addmm_(x.T, x)

    def reduce(self) -> None:
        """Make the sums those of all ranks; to be called once, after the last batch."""
        count = torch.tensor(float(self.count), dtype=torch.float64)
        for number in (count, self.total, self.outer):
            sum_over_ranks(number)
        self.count = int(count)

    def gaussian(self) -> Gaussian:
        """The Gaussian of everything added so far, with divisor n - 1."""
        if self.count < 2:
            raise SpecError(
                f"A covariance needs at least 2 images, but there are {self.count}.",
                "Generate more images, or name a folder that has more.",
            )
        mean = self.total / self.count
        outer = torch.outer(mean, mean).mul_(-self.count).add_(self.outer)
        return Gaussian(mean.cpu(), outer.div_(self.count - 1).cpu(), self.count)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), by symmetric eigenvalues.

    With S_a = F F^T, the nonzero eigenvalues of S_a S_b are those of the symmetric F^T S_b F, and
    tr (S_a S_b)^(1/2) is the sum of their square roots: no complex part can arise.
    """
    _check_pair(a, b)
    s_a, s_b = a.covariance.cpu().double(), b.covariance.cpu().double()
    # Of the two the one of lower rank is split: what is left then has no eigenvalues that should
    # be zero, whose rounding the square root would blow up.
    splits = (_Factor.of(s_a), s_b), (_Factor.of(s_b), s_a)
    factor, other = min(splits, key=lambda split: split[0].matrix.shape[1])
    cross = torch.linalg.eigvalsh(factor.reduce(other)).clamp(min=0).sqrt().sum()
    shift = (a.mean.cpu().double() - b.mean.cpu().double()).square().sum()
    return float(shift + s_a.trace() + s_b.trace() - 2 * cross)


@dataclass(frozen=True, slots=True)
class _Factor:
    """F [D, rank] with F F^T = S: Cholesky's, or of eigenvectors where S is singular."""

    matrix: Tensor
    triangular: bool

    @classmethod
    def of(cls, covariance: Tensor) -> _Factor:
        rounding = len(covariance) * torch.finfo(covariance.dtype).eps
        lower, failed = torch.linalg.cholesky_ex(covariance)
        smallest = lower.diagonal().square().min()
        # Rounding can carry Cholesky through a singular matrix; its pivots then are rounding, too.
        if not failed and smallest > rounding * covariance.diagonal().max():
            return cls(lower, True)
        values, vectors = torch.linalg.eigh(covariance)
        kept = values > rounding * values[-1]
        return cls(vectors[:, kept] * values[kept].sqrt(), False)

    def reduce(self, other: Tensor) -> Tensor:
        """F^T S_b F, or its lower half, which is all that `eigvalsh` reads."""
        if not self.triangular:
            return self.matrix.T @ other @ self.matrix
        # LAPACK knows F and S_b by halves: a quarter of the time of two products.
        half, _ = lapack.dsygst(other.T.numpy(), self.matrix.numpy(), itype=2, lower=1)
        return torch.from_numpy(half)


def _check_pair(a: Gaussian, b: Gaussian) -> None:
    if a.covariance.shape != b.covariance.shape:
        raise SpecError(
            f"Features of {len(a.mean)} and of {len(b.mean)} dimensions cannot be compared.",
            "Use a reference that was made with the same feature network.",
        )
    for numbers in (a.mean, a.covariance, b.mean, b.covariance):
        if not numbers.isfinite().all():
            raise SpecError(
                "A mean or covariance has values that are NaN or infinite.",
                "Build the reference again, with `dimo eval ref build`.",
            )


def refuse_nonfinite(features: Tensor) -> None:
    """Refuse features [B, D] with NaN or infinite values: one would spoil every sum."""
    # NaN passes through both, and no copy of the features is made.
    low, high = torch.aminmax(features, dim=1)
    bad = int((~(low.isfinite() & high.isfinite())).sum())
    if bad:
        raise SpecError(
            f"{bad} of {len(features)} images have features that are NaN or infinite.",
            "Look at these images: a broken student or half precision makes such values. "
            "They are not averaged in.",
        )


def sum_over_ranks(numbers: Tensor) -> None:
    """Replace numbers by their sum over all processes of a distributed run, if this is one."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    # One place for all: where a rank's own numbers are depends on whether it had any images.
    place = "cuda" if "nccl" in dist.get_backend_config() else "cpu"
    for part in numbers.view(-1).split(PART):
        sent = part.to(place)
        dist.all_reduce(sent)
        part.copy_(sent)
