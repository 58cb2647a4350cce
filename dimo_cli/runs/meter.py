"""FID of a generator held in memory, with its protocol beside the number."""

from __future__ import annotations

import hashlib
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
from dimo_cli.sampling.samplers import Sampler, clock
from dimo_cli.teachers.builtin import builtin_path
from dimo_cli.teachers.protocol import Teacher

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


def label_batches(images: int, classes: int) -> Iterator[Tensor]:
    """Labels 0, 1, ..., classes - 1 over and over, in batches."""
    labels = torch.arange(images) % classes
    return iter(labels.split(BATCH))
