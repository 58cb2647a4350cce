"""What an evaluation spends its time on: features, the Frechet distance, nearest neighbors.

Inception has random weights: its arithmetic is the same. The Frechet distance is held against
scipy's matrix root, neighbors in blocks against whole matrices of distances.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import frechet, manifold
from benchmarks.measuring import device_of, environment, in_turn, medians
from dimo_cli.metrics.frechet import frechet_distance
from dimo_cli.metrics.inception import CLASSES, DIMENSIONS, FidInception, InceptionFeatures
from dimo_cli.metrics.manifold import BLOCK_BUDGET, compare_manifolds
from dimo_cli.metrics.networks import load_network
from dimo_cli.metrics.protocol import FeatureNetwork

K = 3


def random_inception() -> InceptionFeatures:
    """The network of the FID, with weights of no meaning."""
    torch.manual_seed(0)
    trunk = FidInception().eval().trunk()
    return InceptionFeatures(trunk, torch.randn(CLASSES, DIMENSIONS), "clean", "0" * 64)


def features(gpu: bool, device: torch.device, rounds: int) -> dict[str, Any]:
    """Images per second through Inception and through the network of the built-in shapes."""
    cases: dict[str, tuple[FeatureNetwork, Tensor]] = {
        "inception": (random_inception(), pictures(64 if gpu else 2, 256, device)),
        "shapes": (load_network("shapes"), pictures(256 if gpu else 32, 32, device)),
    }
    calls = {name: partial(network.to(device), images) for name, (network, images) in cases.items()}
    found = medians(in_turn(calls, rounds))
    return {
        name: {"batch": len(images), "images_per_second": len(images) / found[name]}
        for name, (_, images) in cases.items()
    }


def pictures(count: int, side: int, device: torch.device) -> Tensor:
    """Noise as bytes."""
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8, device=device)


def distances(gpu: bool, rounds: int) -> dict[str, Any]:
    """The Frechet distance, at Inception's width where there is time for scipy's root."""
    dimensions = DIMENSIONS if gpu else 512
    pair = [frechet.gaussian(4 * dimensions, dimensions, seed) for seed in (1, 2)]
    calls = {
        "dimo": lambda: frechet_distance(*pair),
        "scipy_sqrtm": lambda: frechet.by_matrix_root(*pair),
    }
    found = medians(in_turn(calls, rounds))
    return {
        "dimensions": dimensions,
        "seconds": found,
        "ratio": found["scipy_sqrtm"] / found["dimo"],
    }


def neighbors(gpu: bool, device: torch.device, rounds: int) -> dict[str, Any]:
    """Precision, recall, density and coverage of two sets."""
    count = 50_000 if gpu else 1000
    sets = [manifold.features(count, DIMENSIONS, seed) for seed in (1, 2)]
    small = [x[:1000] for x in sets]
    calls = {
        "dimo": lambda: compare_manifolds(*small, k=K, device=device),
        "whole_matrices": lambda: manifold.whole(small[0], small[1], K),
    }
    found = medians(in_turn(calls, rounds))
    large = medians(
        in_turn({"dimo": lambda: compare_manifolds(*sets, k=K, device=device)}, 1, warmup=0)
    )
    return {
        "images": count,
        "dimensions": DIMENSIONS,
        "block_bytes": BLOCK_BUDGET,
        "seconds": large["dimo"],
        "compared_images": len(small[0]),
        "compared_seconds": found,
        "ratio": found["whole_matrices"] / found["dimo"],
    }


def measure(gpu: bool, rounds: int) -> dict[str, Any]:
    """The whole benchmark."""
    device = device_of(gpu)
    root, kin = distances(gpu, rounds), neighbors(gpu, device, rounds)
    return {
        "benchmark": "eval",
        **environment(device),
        "features": features(gpu, device, rounds),
        "frechet": root,
        "neighbors": kin,
        "ratios": {
            "scipy_over_frechet": root["ratio"],
            "whole_matrices_over_neighbors": kin["ratio"],
        },
        "bars": {},
    }
