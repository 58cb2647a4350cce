"""The Frechet distance between two Gaussians, from float64 running sums."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Mean and covariance of a set of features, and how many there were."""

    mean: Tensor
    covariance: Tensor
    count: int


class RunningGaussian:
    """Sums n, x and x x^T in float64; the sums of several ranks may simply be added."""

    def __init__(self, dimensions: int) -> None:
        self.count = 0
        self.total = torch.zeros(dimensions, dtype=torch.float64)
        self.outer = torch.zeros(dimensions, dimensions, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Count a batch of features [B, D]."""
        x = features.detach().cpu().double()
        self.count += len(x)
        self.total += x.sum(0)
        self.outer += x.T @ x

    def gaussian(self) -> Gaussian:
        """The Gaussian of everything added so far, with divisor n - 1."""
        mean = self.total / self.count
        covariance = (self.outer - self.count * torch.outer(mean, mean)) / (self.count - 1)
        return Gaussian(mean, covariance, self.count)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), by symmetric eigenvalues.

    tr (S_a S_b)^(1/2) is the sum of the square roots of the eigenvalues of S_a^(1/2) S_b S_a^(1/2),
    which is symmetric, so no complex part can arise; tiny negative eigenvalues are rounding.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    shift = (a.mean - b.mean).square().sum()
    return float(shift + a.covariance.trace() + b.covariance.trace() - 2 * cross)
