"""What metrics and feature networks promise each other: one pass over the images serves them all.

An evaluation sends every batch of images through each network that some metric reads, once, and
hands the features to those metrics. A metric adds up what it needs, so nothing of the images stays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from dimo_cli.data.arrays import Batch


@dataclass(frozen=True, slots=True)
class Features:
    """What a network sees in a batch."""

    vectors: Tensor
    """Features [B, D], float32 or better."""
    logits: Tensor | None = None
    """Class logits [B, C] without bias, where the network has classes."""


class FeatureNetwork(nn.Module, ABC):
    """A frozen network that makes features of images; it resizes them itself."""

    name: str
    """What it is, such as `inception-2015-12-05`."""
    sha256: str
    """Hash of its weights' file."""
    resize: str
    """How images get to its size: `clean`, `legacy_tensorflow`, `none`, ..."""
    dimensions: int
    classes: int | None = None
    """How many classes its logits tell apart, if it has any."""

    @abstractmethod
    def forward(self, images: Tensor) -> Features:
        """Features of bytes [B, 3, H, W] of any size."""

    def guess(self, features: Features) -> Tensor:
        """The likeliest class [B] of each image."""
        assert features.logits is not None, "only a network with classes is asked for one"
        return features.logits.argmax(-1)


@dataclass(frozen=True, slots=True)
class Result:
    """A number with what it means."""

    metric: str
    """Name with its convention and sample count, such as `fid50k` or `precision_k3`."""
    value: float
    protocol: dict[str, Any]
    """Everything that has to be equal for two values to be comparable."""
    details: dict[str, Any] = field(default_factory=dict)
    """Further numbers, such as a spread or the score of each task."""


class Metric(ABC):
    """One or more numbers about a set of images, from features that are seen once."""

    @abstractmethod
    def add(self, features: Features, batch: Batch) -> None:
        """Take in a batch."""

    @abstractmethod
    def restart(self, images: int) -> None:
        """Forget every image, and be ready for so many others; networks stay."""

    @abstractmethod
    def reduce(self) -> None:
        """With several processes: make this rank's sums those of all ranks."""

    @abstractmethod
    def results(self) -> list[Result]:
        """The numbers, once every image is in."""
