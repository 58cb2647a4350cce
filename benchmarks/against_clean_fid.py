"""FID and KID against clean-fid itself: same images, same feature file, one run.

python -m benchmarks.against_clean_fid [--images 2000] [--mode clean] [--weights FILE] [--json FILE]

Without --weights the feature file has random weights, normalized as if trained: values then mean
nothing, but have to agree all the same. `--network small` leaves mostly reading and resizing.
"""

import argparse
import os
import platform
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from benchmarks.output import emit
from dimo_cli.data.folders import open_images
from dimo_cli.files.writing import file_sha256
from dimo_cli.metrics.frechet import RunningGaussian, frechet_distance
from dimo_cli.metrics.inception import (
    CLASSES,
    DIMENSIONS,
    PUBLISHED,
    SCRIPT,
    STATE_DICT,
    FidInception,
    load_inception,
)
from dimo_cli.metrics.kernel import kernel_distance
from dimo_cli.metrics.resize import SIDE

BATCH = 32
BAR = 1e-4


class Script(nn.Module):
    """What the published TorchScript file can do: `layers`, `output` and these four options."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.output = layers, nn.Linear(DIMENSIONS, CLASSES)

    def forward(
        self,
        img: Tensor,
        return_features: bool = False,
        use_fp16: bool = False,
        no_output_bias: bool = False,
    ) -> Tensor:
        """Features, or probabilities, of images of 0..255; TensorFlow's resize is inside."""
        height, width = img.shape[2], img.shape[3]
        x = img.half() if use_fp16 else img.float()
        shift = torch.tensor([[1.0, 0.0, 1.0 / width - 1.0 / 299], [0.0, 1.0, 0.0]])
        shift[1, 2] = 1.0 / height - 1.0 / 299
        grid = F.affine_grid(
            shift.to(x).unsqueeze(0).repeat(x.shape[0], 1, 1), [x.shape[0], 3, 299, 299], False
        )
        x = F.grid_sample(x, grid, "bilinear", "border", False)
        features = self.layers((x - 128) / 128).reshape(-1, 2048)
        if return_features:
            return features
        logits = F.linear(features, self.output.weight)
        return F.softmax(logits if no_output_bias else logits + self.output.bias, dim=1)


def small_trunk() -> nn.Sequential:
    """A network of little work with as many features as Inception."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 7, stride=8),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, DIMENSIONS, 5, stride=8),
        nn.BatchNorm2d(DIMENSIONS),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
    )


@torch.no_grad()
def normalize(trunk: nn.Module, seed: int) -> None:
    """Set the norms of a random network as training would, or its features would all be alike."""
    generator = torch.Generator().manual_seed(seed)
    norms = [part for part in trunk.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    trunk.train()
    coarse = torch.rand(12, 3, 9, 9, generator=generator) * 2 - 1
    trunk(F.interpolate(coarse, (SIDE, SIDE), mode="bicubic"))
    trunk.eval()


def write_features(folder: Path, network: str = "inception", seed: int = 0) -> Path:
    """Random weights in the published TorchScript layout, and for `inception` as a state dict."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    if network == "inception":
        whole = FidInception()
        trunk = whole.trunk()
        normalize(trunk, seed)
        torch.save(whole.state_dict(), folder / STATE_DICT)
    else:
        trunk = small_trunk()
        normalize(trunk, seed)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(trunk.eval(), torch.zeros(2, 3, SIDE, SIDE))
        torch.jit.script(Script(traced).eval()).save(str(folder / SCRIPT))
    return folder / SCRIPT


@contextmanager
def taken_as_published(script: Path) -> Iterator[None]:
    """For a while, dimo takes a script of random weights for the only one that it loads."""
    url, _ = PUBLISHED[SCRIPT]
    with patch.dict(PUBLISHED, {SCRIPT: (url, file_sha256(script))}):
        yield


def write_images(folder: Path, count: int, side: int, seed: int) -> None:
    """Colored clouds as PNG files; another seed gives another distribution."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    tint = rng.uniform(-40, 40, 3)
    for number in range(count):
        coarse = (rng.uniform(0, 255, (8 + seed % 5, 8, 3)) + tint).clip(0, 255).astype(np.uint8)
        clouds = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        noisy = np.asarray(clouds, np.float64) + rng.normal(0, 6, (side, side, 3))
        picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        picture.save(folder / f"{number:05d}.png", compress_level=1)


def clean_fid_network(weights: Path, mode: str) -> nn.Module:
    """clean-fid's own wrapper of the TorchScript file, which it finds only under its one name."""
    from cleanfid.inception_torchscript import InceptionV3W

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inside = mode == "legacy_tensorflow"
        return InceptionV3W(str(weights.parent), download=False, resize_inside=inside).eval()


def clean_fid_features(folder: Path, model: nn.Module, mode: str, workers: int) -> np.ndarray:
    """Features [N, 2048] by clean-fid."""
    from cleanfid.fid import get_folder_features

    return get_folder_features(
        str(folder),
        model,
        num_workers=workers,
        batch_size=BATCH,
        device=torch.device("cpu"),
        mode=mode,
        verbose=False,
    )


@torch.inference_mode()
def our_features(folder: Path, network: nn.Module) -> Tensor:
    """Features [N, 2048] by dimo."""
    return torch.cat([network(b.images).vectors for b in open_images(folder).batches(BATCH)])


def features_of_both(
    folders: list[Path], weights: Path, mode: str, workers: int, repeats: int = 1
) -> tuple[dict[str, list[Tensor]], dict[str, float]]:
    """Features of both folders by both programs, and their seconds, in turn."""
    with taken_as_published(weights):
        ours = load_inception(mode, weights)
    theirs = clean_fid_network(weights, mode)
    extract = {
        "dimo": lambda folder: our_features(folder, ours),
        "clean_fid": lambda folder: torch.from_numpy(
            clean_fid_features(folder, theirs, mode, workers)
        ),
    }
    bytes_of_299 = torch.zeros(BATCH, 3, SIDE, SIDE)
    for _ in range(2):  # scripts are compiled at their first calls
        ours(bytes_of_299.byte())
        with torch.no_grad():
            theirs(bytes_of_299)
    found: dict[str, list[Tensor]] = {name: [] for name in extract}
    seconds = dict.fromkeys(extract, 0.0)
    for folder in folders:
        times: dict[str, list[float]] = {name: [] for name in extract}
        last: dict[str, Tensor] = {}
        for repeat in range(repeats):
            for name in sorted(extract, reverse=bool(repeat % 2)):
                started = time.perf_counter()
                last[name] = extract[name](folder)
                times[name].append(time.perf_counter() - started)
        for name in extract:
            found[name].append(last[name])
            seconds[name] += min(times[name])
    return found, seconds


def clean_fid_distances(features: list[Tensor]) -> dict[str, float]:
    """FID and KID by clean-fid's own functions."""
    from cleanfid.fid import fid_from_feats, kernel_distance

    real, fake = (part.numpy() for part in features)
    np.random.seed(0)  # clean-fid draws from the global generator
    kid = kernel_distance(real, fake)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {"fid": float(fid_from_feats(real, fake)), "kid": kid}


def our_distances(features: list[Tensor]) -> dict[str, float]:
    """FID and KID as an evaluation computes them."""
    real, fake = features
    gaussians = []
    for part in features:
        running = RunningGaussian(part.shape[1])
        for batch in part.split(BATCH):
            running.add(batch)
        gaussians.append(running.gaussian())
    return {"fid": frechet_distance(*gaussians), "kid": kernel_distance(real, fake).mean}


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Everything, with the bars that it has to clear."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        weights = write_features(root / "features", args.network)
        if args.weights:
            shutil.copy(args.weights, weights)
        folders = [root / "real", root / "fake"]
        for seed, folder in enumerate(folders, start=1):
            write_images(folder, args.images, args.side, seed)
        features, seconds = features_of_both(
            folders, weights, args.mode, args.workers, args.repeats
        )
    ours, theirs = our_distances(features["dimo"]), clean_fid_distances(features["clean_fid"])
    pace = {name: 2 * args.images / value for name, value in seconds.items()}
    return {
        "benchmark": "against_clean_fid",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "images": args.images,
        "side": args.side,
        "mode": args.mode,
        "network": args.weights.name if args.weights else f"{args.network}, random weights",
        "workers": args.workers,
        "repeats": args.repeats,
        "dimo": ours,
        "clean_fid": theirs,
        "relative_difference": {key: abs(ours[key] / theirs[key] - 1) for key in ours},
        "images_per_second": pace,
        "throughput_ratio": pace["dimo"] / pace["clean_fid"],
        "bar": {"relative_difference": BAR, "throughput_ratio": 1.0},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000, help="in each of the two folders")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--mode", choices=("clean", "legacy_tensorflow"), default="clean")
    parser.add_argument("--network", choices=("inception", "small"), default="inception")
    parser.add_argument("--weights", type=Path, help=f"the published `{SCRIPT}`")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of clean-fid")
    parser.add_argument("--repeats", type=int, default=1, help="the fastest one counts")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    emit(measure(args), args.json)


if __name__ == "__main__":
    main()
