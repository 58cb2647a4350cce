"""How fast the Frechet distance is, as a ratio to scipy's matrix root in the same run.

python -m benchmarks.frechet [--dimensions 2048] [--json FILE]
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.linalg
import torch

from benchmarks.output import emit
from dimo_cli.metrics.frechet import Gaussian, RunningGaussian, frechet_distance

REPEATS = 3


def gaussian(images: int, dimensions: int, seed: int) -> Gaussian:
    """Statistics of positive features whose spread falls off, as Inception's does."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.linspace(0, -4, dimensions).exp()
    mix = torch.randn(dimensions, dimensions, generator=generator) / dimensions**0.5
    running = RunningGaussian(dimensions)
    for _ in range(0, images, 1000):
        running.add((torch.randn(1000, dimensions, generator=generator) * scale @ mix).relu())
    return running.gaussian()


def by_matrix_root(a: Gaussian, b: Gaussian) -> float:
    """The distance as it is usually computed."""
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy())
    shift = (a.mean - b.mean).square().sum()
    return float(shift + (a.covariance + b.covariance).trace() - 2 * np.trace(root).real)


def timed(function: Callable[..., float], *arguments: Gaussian) -> tuple[float, float]:
    """Wall time of a call, and what it returned."""
    started = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - started, result


def measure(dimensions: int = 2048) -> dict[str, object]:
    """Time both on the same matrices; ours before and after, as a slow moment is to meet both."""
    pair = [gaussian(4 * dimensions, dimensions, seed) for seed in (1, 2)]
    before = [timed(frechet_distance, *pair) for _ in range(REPEATS)]
    root_seconds, theirs = timed(by_matrix_root, *pair)
    after = [timed(frechet_distance, *pair) for _ in range(REPEATS)]
    seconds = statistics.median(seconds for seconds, _ in before + after)
    ours = before[0][1]
    return {
        "benchmark": "frechet",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "dimensions": dimensions,
        "seconds": {"dimo": seconds, "scipy_sqrtm": root_seconds},
        "distance": {"dimo": ours, "scipy_sqrtm": theirs},
        "relative_difference": abs(ours - theirs) / abs(theirs),
        "ratio": root_seconds / seconds,
        "bar": 8,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    emit(measure(args.dimensions), args.json)
