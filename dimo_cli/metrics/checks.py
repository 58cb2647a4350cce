"""Whether feature statistics can be what they claim to be."""

from __future__ import annotations

import torch
from torch import Tensor

from dimo_cli.errors import SpecError
from dimo_cli.metrics.frechet import Gaussian

# Relative to the trace: what float32 statistics of real features may be off by.
TOLERANCE = 1e-6


def check_gaussian(
    gaussian: Gaussian, dimensions: int, what: str
) -> tuple[Gaussian, tuple[str, ...]]:
    """The statistics, exactly symmetric, with warnings; impossible ones are refused."""
    mean, covariance = gaussian.mean, gaussian.covariance
    if mean.shape != (dimensions,) or covariance.shape != (dimensions, dimensions):
        raise SpecError(
            f"{what} has a mean of shape {list(mean.shape)} and a covariance of shape "
            f"{list(covariance.shape)}; this network has {dimensions} features.",
            "Use the reference of this network, or the network of this reference.",
        )
    damaged = "Get the file again, or build the reference again."
    for name, tensor in (("mean", mean), ("covariance", covariance)):
        if not tensor.isfinite().all():
            raise SpecError(f"The {name} of {what} has NaN or infinite values.", damaged)
    if (covariance - covariance.T).abs().max() > TOLERANCE * covariance.abs().max():
        raise SpecError(f"The covariance of {what} is not symmetric.", damaged)
    covariance = (covariance + covariance.T) / 2
    size = float(covariance.trace())
    if size <= 0 or not is_definite(covariance, TOLERANCE * size):
        raise SpecError(
            f"The covariance of {what} has negative variances: it is no covariance.", damaged
        )
    checked = Gaussian(mean, covariance, gaussian.count)
    if checked.warning:
        return checked, (f"{what}: {checked.warning}",)
    if not checked.count and not is_definite(covariance, 0.0):
        return checked, (f"The covariance of {what} is singular: it may be of too few images.",)
    return checked, ()


def is_definite(covariance: Tensor, shift: float) -> bool:
    """Whether all variances are positive once `shift` is added; far cheaper than eigenvalues."""
    shifted = covariance + shift * torch.eye(len(covariance), dtype=covariance.dtype)
    return int(torch.linalg.cholesky_ex(shifted).info) == 0


def check_features(features: Tensor, dimensions: int, what: str) -> None:
    """Refuse features of another network, or that are not numbers."""
    if features.ndim != 2 or features.shape[1] != dimensions:
        raise SpecError(
            f"{what} has features of shape {list(features.shape)}; this network has {dimensions}."
        )
    finite = features.isfinite().all(1)
    if not finite.all():
        first = int((~finite).nonzero()[0])
        raise SpecError(
            f"{what} has NaN or infinite features (row {first} of {len(features)}).",
            "Such a row would make every distance NaN.",
        )
