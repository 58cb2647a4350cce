"""What generated images are compared with: feature statistics of real ones, and their protocol.

Read are files of ADM, clean-fid and EDM2, and dimo's own; none of them can run code here. dimo's
own say how their images were cropped and resized, and with which network they were seen.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from dimo_cli import __version__
from dimo_cli.data.arrays import ArrayImages, Batch, Images
from dimo_cli.data.npz import Npz
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.files.untrusted import parse_json
from dimo_cli.files.writing import file_sha256, whole_file
from dimo_cli.metrics.checks import check_features, check_gaussian
from dimo_cli.metrics.frechet import Gaussian, RunningGaussian
from dimo_cli.metrics.protocol import FeatureNetwork
from dimo_cli.metrics.statistics_pickle import read_statistics_pickle
from dimo_cli.teachers.builtin import builtin_path
from dimo_cli.teachers.digits import DigitsTokenizer, training_tokens
from dimo_cli.teachers.shapes import world

Arrays = Mapping[str, NDArray[Any]]
BATCH = 64
# What EDM2 calls the statistics of each network.
EDM2_KEYS = {"inception-2015-12-05": "fid", "dinov2-large": "fd_dinov2"}
UNKNOWN_COUNT = 0
# What dimo's own file says of each network, in text.
PART_KEYS = ("name", "resize", "sha256", "prefix")


@dataclass(frozen=True, slots=True)
class Reference:
    """Real images as one network sees them."""

    gaussian: Gaussian
    """Its `count` is 0 where the file does not say how many images there were."""
    name: str
    sha256: str
    """Hash of the file; empty for one that was not written yet."""
    features: Tensor | None = None
    """Features [N, D] of some of the images, for metrics that compare neighbors."""
    images: Images | None = None
    """Images that features can be made of, where the file has images."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """How it was made, as far as the file says."""
    warnings: tuple[str, ...] = ()

    def identity(self) -> dict[str, str]:
        """Which reference it is, for the protocols of what is compared with it."""
        return {"reference": self.name, "reference_sha256": self.sha256}


def read_reference(path: Path, network: FeatureNetwork) -> Reference:
    """The reference of a file for a network; one that cannot be right is refused."""
    path = path.expanduser()
    if not path.is_file():
        raise MissingError(
            f"There is no reference file `{path}`.",
            "Build one with `dimo eval ref build`, or name an npz of ADM or clean-fid.",
        )
    reference = read_pickle(path, network) if is_pickle(path) else read_npz(path, network)
    what = f"`{path}`"
    gaussian, warnings = check_gaussian(reference.gaussian, network.dimensions, what)
    if reference.features is not None:
        check_features(reference.features, network.dimensions, what)
    return replace(
        reference,
        gaussian=gaussian,
        sha256=file_sha256(path),
        warnings=(*reference.warnings, *warnings),
    )


def builtin_reference_path(name: str) -> Path:
    """Where the reference of this name is, if it ships."""
    return Path(builtin_path(f"{name}_reference.safetensors"))


def has_builtin_reference(name: str) -> bool:
    """Whether `builtin_reference` has one of this name."""
    return builtin_reference_path(name).is_file()


def builtin_reference(name: str) -> Reference:
    """The reference that ships inside the package: all real digits, or pictures of the world."""
    path = builtin_reference_path(name)
    if not path.is_file():
        raise MissingError(
            f"There is no built-in reference for `{name}`: `{path.name}` is not in the package.",
            "Name a reference with `--ref FILE.npz`.",
        )
    stats = load_file(path)
    gaussian = Gaussian(stats["mean"], stats["covariance"], int(stats["count"]))
    facts = {"format": "built-in", "images": f"real {name}"}
    kept = stats.get("features")
    features = None if kept is None else kept.float()
    title = f"{name}-train-{gaussian.count}"
    return Reference(gaussian, title, file_sha256(path), features, facts=facts)


def builtin_features(name: str, network: FeatureNetwork) -> Tensor:
    """Features by a world's own network of the images behind its `builtin_reference`.

    They are made anew in seconds. The drawings of `emoji` do not ship: what was seen of some is in
    the file.
    """
    if name not in REAL_IMAGES:
        kept = builtin_reference(name).features
        assert kept is not None, "the file has what stands in for its images"
        return kept
    parts = REAL_IMAGES[name]().split(BATCH)
    return torch.cat([network(part.to(device_of(network))).vectors.float().cpu() for part in parts])


def real_digits() -> Tensor:
    """All digits as bytes [1797, 3, 8, 8]."""
    tokens, _ = training_tokens()
    return ((DigitsTokenizer().decode(tokens) + 1) * 127.5).round().byte()


def real_shapes() -> Tensor:
    """The pictures [N, 3, 32, 32] that `examples/train_shapes_features.py` took statistics of."""
    rng = random.Random(SHAPES_SEED)
    count = builtin_reference("shapes").gaussian.count
    pictures = [world.render(*world.compose(world.random_scene(rng), rng)) for _ in range(count)]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


REAL_IMAGES: dict[str, Callable[[], Tensor]] = {"digits": real_digits, "shapes": real_shapes}
SHAPES_SEED = 1
SPREAD_SEED = 0


def is_pickle(path: Path) -> bool:
    """Whether a file is named as a pickle."""
    return path.suffix.lower() in (".pkl", ".pickle")


def read_pickle(path: Path, network: FeatureNetwork) -> Reference:
    """EDM2's file: one dictionary with `mu` and `sigma` for each network."""
    content = read_statistics_pickle(path)
    key = EDM2_KEYS.get(network.name)
    part = content.get(key) if key else None
    if not isinstance(part, dict) or not all(
        isinstance(part.get(name), np.ndarray) for name in ("mu", "sigma")
    ):
        raise SpecError(
            f"`{path}` has no statistics of `{network.name}`: it holds "
            f"{', '.join(sorted(map(str, content))) or 'nothing'}.",
            "EDM2 calls those of Inception `fid` and those of DINOv2 `fd_dinov2`.",
        )
    count = content.get("num_images")
    count = count if isinstance(count, int) else UNKNOWN_COUNT
    gaussian = as_gaussian(part["mu"], part["sigma"], count, path)
    return Reference(gaussian, path.stem, "", facts={"format": "edm2"})


def read_npz(path: Path, network: FeatureNetwork) -> Reference:
    """Any of the npz files; large arrays in it are not read."""
    with Npz(path) as arrays:
        names = set(arrays.files)
        if "facts" in names:
            return read_own(path, arrays, network)
        if "feats" in names:  # what clean-fid keeps for its KID
            features = as_features(arrays["feats"], path)
            return Reference(
                gaussian_of([features]), path.stem, "", features, facts={"format": "clean-fid"}
            )
        images = ArrayImages(path) if "arr_0" in names else None
        if {"mu", "sigma"} <= names:
            gaussian = as_gaussian(arrays["mu"], arrays["sigma"], UNKNOWN_COUNT, path)
            kind = "adm" if images or "mu_s" in names else "mu and sigma"
            return Reference(gaussian, path.stem, "", images=images, facts={"format": kind})
    if images is None:
        raise SpecError(
            f"`{path}` is no reference: it holds {', '.join(sorted(names)) or 'nothing'}.",
            "A reference has `mu` and `sigma`, or images in `arr_0`.",
        )
    (reference,) = build_reference(images.batches(BATCH), [network], {"format": "adm images"})
    return replace(reference, name=path.stem, images=images)


def read_own(path: Path, arrays: Npz, network: FeatureNetwork) -> Reference:
    """The part of dimo's own file that is of this network and its resize."""
    facts = read_facts(path, arrays)
    parts = {(part["name"], part["resize"]): part for part in facts["networks"]}
    part = parts.get((network.name, network.resize))
    if part is None:
        there = ", ".join(f"{name} ({resize})" for name, resize in parts)
        raise SpecError(
            f"`{path}` was not built for {network.name} ({network.resize}): it has {there}.",
            "Build it again with this network and resize, or evaluate with what it has.",
        )
    prefix = part["prefix"]
    count = arrays[f"{prefix}count"]
    if count.shape != () or count.dtype.kind not in "iu":
        raise SpecError(f"`{prefix}count` in `{path}` is no whole number.", "Build it again.")
    gaussian = as_gaussian(arrays[f"{prefix}mu"], arrays[f"{prefix}sigma"], int(count), path)
    kept = f"{prefix}features"
    features = as_features(arrays[kept], path) if kept in arrays.files else None
    warnings: tuple[str, ...] = ()
    if part["sha256"] != network.sha256:
        warnings = (
            f"`{path}` was built with another file of {network.name} (hash "
            f"{part['sha256'][:12]}, now {network.sha256[:12]}).",
        )
    others = {key: value for key, value in facts.items() if key != "networks"}
    about = {key: value for key, value in part.items() if key != "prefix"}
    return Reference(
        gaussian, path.stem, "", features, facts={**others, "network": about}, warnings=warnings
    )


def read_facts(path: Path, arrays: Npz) -> dict[str, Any]:
    """What dimo's own file says of itself, complete and of the right types."""
    try:
        facts: dict[str, Any] = parse_json(str(arrays["facts"]))
        said = [part[key] for part in facts["networks"] for key in PART_KEYS]
        if not all(isinstance(value, str) for value in said):
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        raise SpecError(f"The `facts` of `{path}` are damaged.", "Build it again.") from error
    return facts


def as_gaussian(mean: NDArray[Any], covariance: NDArray[Any], count: int, path: Path) -> Gaussian:
    """Statistics of a file in float64."""
    for name, array in (("mu", mean), ("sigma", covariance)):
        if array.dtype.kind != "f":
            raise SpecError(f"`{name}` in `{path}` is of type {array.dtype}, not of real numbers.")
    return Gaussian(
        torch.from_numpy(np.asarray(mean, dtype=np.float64)),
        torch.from_numpy(np.asarray(covariance, dtype=np.float64)),
        count,
    )


def as_features(array: NDArray[Any], path: Path) -> Tensor:
    """Features of a file."""
    if array.dtype.kind != "f" or array.ndim != 2 or len(array) < 2:
        raise SpecError(
            f"`{path}` has features {array.dtype}{list(array.shape)}, not real numbers [N, D]."
        )
    features = torch.from_numpy(np.asarray(array, dtype=np.float32))
    check_features(features, features.shape[1], f"`{path}`")
    return features


def gaussian_of(parts: Iterable[Tensor]) -> Gaussian:
    """Statistics of features that come in parts."""
    running: RunningGaussian | None = None
    for part in parts:
        running = running or RunningGaussian(part.shape[1])
        running.add(part)
    assert running is not None, "features are never empty"
    return running.gaussian()


def spread(images: int, count: int) -> list[int]:
    """Numbers of `count` of so many images, rising: one of each of `count` equal stretches.

    Sets are sorted by class, or go through the classes in turn: neither their first images nor
    every fifth one are of all classes.
    """
    count = max(0, min(count, images))
    draw = random.Random(SPREAD_SEED)
    return [draw.randrange(n * images // count, (n + 1) * images // count) for n in range(count)]


def build_reference(
    images: Iterable[Batch],
    networks: Sequence[FeatureNetwork],
    facts: Mapping[str, Any],
    keep: Collection[int] = (),
    progress: Callable[[int], None] | None = None,
) -> list[Reference]:
    """One reference per network, from one pass; the features of images of the numbers `keep` stay.

    `facts` say where the images are from and how they were cropped.
    """
    numbers = set(keep)
    sums = [RunningGaussian(network.dimensions) for network in networks]
    kept: list[list[Tensor]] = [[] for _ in networks]
    seen = 0
    for batch in images:
        here = [row for row in range(len(batch)) if seen + row in numbers]
        for network, running, features in zip(networks, sums, kept, strict=True):
            vectors = network(batch.images.to(device_of(network))).vectors
            running.add(vectors)
            if here:
                features.append(vectors[here].float().cpu())
        seen += len(batch)
        if progress:
            progress(len(batch))
    if seen < 2:
        raise SpecError(
            f"A reference of {seen} images has no covariance.", "Give it thousands of images."
        )
    if numbers:
        facts = {**facts, "features": f"{len(numbers)} of {seen} images, spread over all"}
    return [
        built(network, running.gaussian(), torch.cat(features) if features else None, facts)
        for network, running, features in zip(networks, sums, kept, strict=True)
    ]


def built(
    network: FeatureNetwork, gaussian: Gaussian, features: Tensor | None, facts: Mapping[str, Any]
) -> Reference:
    """A reference of statistics that were just measured, as `write_reference` takes it."""
    facts = {**facts, "dimo": __version__, "network": network_facts(network)}
    warnings = (gaussian.warning,) if gaussian.warning else ()
    return Reference(gaussian, "built", "", features, facts=facts, warnings=warnings)


def device_of(network: FeatureNetwork) -> torch.device:
    """Where a network is."""
    for tensor in chain(network.parameters(), network.buffers()):
        return tensor.device
    return torch.device("cpu")


def network_facts(network: FeatureNetwork) -> dict[str, Any]:
    """What identifies a network and its resize."""
    return {
        "name": network.name,
        "sha256": network.sha256,
        "resize": network.resize,
        "dimensions": network.dimensions,
    }


def write_reference(path: Path, references: Sequence[Reference]) -> str:
    """Write the references of one set of images into one npz, whole or not at all; its hash.

    A file of one network has `mu` and `sigma` where other tools look for them.
    """
    if path.suffix != ".npz":
        raise SpecError(f"`{path}` must end in .npz.", "References are npz files.")
    arrays: dict[str, Any] = {}
    parts = []
    for number, reference in enumerate(references):
        prefix = "" if len(references) == 1 else f"{number}/"
        parts.append({**reference.facts["network"], "prefix": prefix})
        arrays[f"{prefix}mu"] = reference.gaussian.mean.numpy()
        arrays[f"{prefix}sigma"] = reference.gaussian.covariance.numpy()
        arrays[f"{prefix}count"] = np.array(reference.gaussian.count)
        if reference.features is not None:
            arrays[f"{prefix}features"] = reference.features.float().numpy()
    shared = {key: value for key, value in references[0].facts.items() if key != "network"}
    arrays["facts"] = np.array(json.dumps({**shared, "networks": parts}))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise MissingError(
            f"Cannot write `{path}`: {error.strerror or error}.",
            "Free some space, or choose a folder that can be written to.",
        ) from error
    return file_sha256(path)
