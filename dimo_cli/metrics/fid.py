"""FID of a generator held in memory, with its protocol beside the number."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dimo_cli.errors import MissingError
from dimo_cli.metrics.features import load_digits_features, load_digits_reference
from dimo_cli.metrics.frechet import RunningGaussian, frechet_distance
from dimo_cli.metrics.manifold import short_count
from dimo_cli.metrics.protocol import Batch, FeatureNetwork, Features, Metric, Result
from dimo_cli.metrics.references import Reference, network_facts
from dimo_cli.teachers.digits import builtin_path
from dimo_cli.teachers.protocol import Cond, Teacher

Sampler = Callable[[Cond, torch.Generator], Tensor]
BATCH = 250


@dataclass(frozen=True)
class Score:
    """A measured FID and everything needed to measure it again."""

    metric: str
    value: float
    images: int
    accuracy: float
    seconds_per_image: float
    reference: str
    reference_sha256: str
    features: str
    features_sha256: str
    seed: int
    sampler: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The score as JSON-ready values."""
        return asdict(self)


def metric_name(images: int) -> str:
    """fid5k for 5,000 images: a FID without its sample count says nothing."""
    return f"fid{short_count(images)}"


def file_hash(name: str) -> str:
    """Start of the sha256 of a file that ships in the package."""
    return hashlib.sha256(Path(builtin_path(name)).read_bytes()).hexdigest()[:16]


def clock(device: torch.device) -> float:
    """The time, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def check_measurable(name: str) -> None:
    """Refuse a teacher whose images no feature network here knows."""
    if name != "digits":
        raise MissingError(
            f"There is no built-in feature network and reference for `{name}`.",
            "While distilling, switch both off: `--set monitor.fid_every=0 "
            "--set monitor.table_samples=0`.",
        )


class FidMeter:
    """Feature network and reference of one teacher's domain, loaded once."""

    def __init__(self, teacher: Teacher) -> None:
        check_measurable(teacher.name)
        self.teacher = teacher
        self.network = load_digits_features()
        self.reference = load_digits_reference()

    def measure(
        self,
        sampler: Sampler,
        *,
        images: int,
        seed: int,
        protocol: dict[str, Any],
        progress: Callable[[int], None] | None = None,
    ) -> Score:
        """Sample evenly over the classes and compare with the reference, in one pass."""
        device = next(self.teacher.backbone.parameters()).device
        generator = torch.Generator(device).manual_seed(seed)
        network = self.network.to(device)
        running, correct, seconds = RunningGaussian(network.dimensions), 0, 0.0
        for labels in label_batches(images, len(self.teacher.class_names)):
            labels = labels.to(device)
            started = clock(device)
            pictures = sampler(self.teacher.conditioner.labels(labels), generator)
            seconds += clock(device) - started
            with torch.inference_mode():
                features, logits = network(pictures)
            running.add(features)
            correct += int((logits.argmax(-1) == labels).sum())
            if progress:
                progress(len(labels))
        return Score(
            metric=metric_name(images),
            value=frechet_distance(running.gaussian(), self.reference),
            images=images,
            accuracy=correct / images,
            seconds_per_image=seconds / images,
            reference=f"digits-train-{self.reference.count}",
            reference_sha256=file_hash("digits_reference.safetensors"),
            features=network.name,
            features_sha256=file_hash("digits_features.safetensors"),
            seed=seed,
            sampler=protocol,
        )


class Fid(Metric):
    """The Frechet distance of an evaluation's images to a reference, under a network's name."""

    def __init__(self, reference: Reference, network: FeatureNetwork, name: str = "fid") -> None:
        self.reference, self.network, self.name = reference, network, name
        self.running = RunningGaussian(network.dimensions)

    def add(self, features: Features, batch: Batch) -> None:
        """Take in the features of a batch."""
        self.running.add(features.vectors)

    def reduce(self) -> None:
        """Make this rank's sums those of all ranks."""
        self.running.reduce()

    def results(self) -> list[Result]:
        """One number, such as `fid50k`."""
        found = self.running.gaussian()
        protocol = {
            "images": found.count,
            "reference_images": self.reference.gaussian.count,
            **self.reference.identity(),
            "network": network_facts(self.network),
        }
        value = frechet_distance(found, self.reference.gaussian)
        details = {"warning": found.warning} if found.warning else {}
        return [Result(f"{self.name}{short_count(found.count)}", value, protocol, details)]


def label_batches(images: int, classes: int) -> Iterator[Tensor]:
    """Labels 0, 1, ..., classes - 1 over and over, in batches."""
    labels = torch.arange(images) % classes
    return iter(labels.split(BATCH))
