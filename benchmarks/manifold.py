"""Memory and time of precision and recall on large sets, and blocks against whole matrices.

python -m benchmarks.manifold [--real 50000] [--fake 50000] [--whole 5000] [--json FILE]
"""

import argparse
import platform
import resource
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.output import emit
from dimo_cli.metrics.manifold import BLOCK_BUDGET, Manifold, compare_manifolds, manifold_bytes


def features(images: int, dimensions: int, seed: int) -> Tensor:
    """Positive features of a few hundred true dimensions, so that neighbors are near."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(64, dimensions, generator=torch.Generator().manual_seed(0)) / 8
    out = torch.empty(images, dimensions)
    for part in out.split(1000):
        part.copy_((torch.randn(len(part), 64, generator=generator) @ mix).relu_())
    return out


def whole(real: Tensor, fake: Tensor, k: int) -> Manifold:
    """The definitions, each on one matrix of all distances, without a matrix product."""

    def distances(x: Tensor, y: Tensor) -> Tensor:
        mode = "donot_use_mm_for_euclid_dist"
        return torch.cdist(x.double(), y.double(), compute_mode=mode)

    def radii(x: Tensor) -> Tensor:
        return distances(x, x).fill_diagonal_(torch.inf).kthvalue(k).values

    cross = distances(real, fake)
    in_real = cross < radii(real)[:, None]
    return Manifold(
        precision=int(in_real.any(0).sum()) / len(fake),
        recall=int((cross < radii(fake)[None]).any(1).sum()) / len(real),
        density=int(in_real.sum()) / (k * len(fake)),
        coverage=int(in_real.any(1).sum()) / len(real),
    )


def peak_bytes() -> int:
    """The most memory that this process has held (Linux)."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(
    real: int, fake: int, dimensions: int, compared: int, budget: int, device: str
) -> dict[str, object]:
    """The large sets first, because the peak of a process never falls."""
    before = peak_bytes()
    sets = features(real, dimensions, 1), features(fake, dimensions, 2)
    started = time.perf_counter()
    large = compare_manifolds(*sets, k=3, budget=budget, device=device)
    seconds, peak = time.perf_counter() - started, peak_bytes()
    small = [x[:compared] for x in sets]
    blocks = compare_manifolds(*small, k=3, budget=budget // 16, device=device)
    return {
        "benchmark": "manifold",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {device}",
        "real": real,
        "fake": fake,
        "dimensions": dimensions,
        "seconds": seconds,
        "result": asdict(large),
        "bytes": {
            "told": manifold_bytes(real, fake, dimensions, budget=budget),
            "measured": peak - before,
            "whole_process": peak,
        },
        "bar_bytes": 4 * 10**9,
        "compared": compared,
        "equal_to_whole_matrices": blocks == whole(small[0], small[1], 3),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=int, default=50_000)
    parser.add_argument("--fake", type=int, default=50_000)
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--whole", type=int, default=5000)
    parser.add_argument("--budget", type=int, default=BLOCK_BUDGET)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = measure(args.real, args.fake, args.dimensions, args.whole, args.budget, args.device)
    emit(found, args.json)
