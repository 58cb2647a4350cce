"""Metrics that are a mean over images: one number for each image, kept by its global number."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from dimo_cli.data.arrays import Batch
from dimo_cli.errors import DimoError, SpecError
from dimo_cli.metrics.protocol import Features, Metric


class PerImage:
    """Numbers by image, so that neither the order of batches nor the number of ranks matters.

    An image that comes twice, as at the end of a padded sampler, counts once.
    """

    def __init__(self) -> None:
        self._values: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._values)

    def add(self, first: int, values: Sequence[float] | Tensor) -> None:
        """Take in the numbers of consecutive images."""
        row = torch.as_tensor(values, dtype=torch.float64).cpu()
        if not row.isfinite().all():
            number = first + int(row.isfinite().logical_not().nonzero()[0])
            raise DimoError(
                f"The score of image {number} is {row[number - first]}, and no mean can be taken.",
                "Look at that image: it or the network that scores it is damaged.",
            )
        self._values.update(enumerate(row.tolist(), start=first))

    def reduce(self) -> None:
        """With several processes: have the numbers of all ranks on every rank."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return
        ranks: list[dict[int, float]] = [{}] * distributed.get_world_size()
        distributed.all_gather_object(ranks, self._values)
        self._values = {number: value for rank in ranks for number, value in rank.items()}

    def numbers(self) -> list[int]:
        """The global numbers of the images, rising."""
        return sorted(self._values)

    def tensor(self) -> Tensor:
        """All values [N] in float64, in the order of the images."""
        return torch.tensor([self._values[n] for n in self.numbers()], dtype=torch.float64)


class PromptMetric(Metric):
    """A metric that gives every pair of an image and its prompt a number.

    It holds the network it needs, so it reads no features.
    """

    name: str

    def __init__(self) -> None:
        self.scores = PerImage()

    def judge(self) -> dict[str, Any]:
        """What tells the network that it looks with from another: nothing where there is none."""
        return {}

    @abstractmethod
    def score(self, batch: Batch) -> Tensor | Sequence[float]:
        """A number for each image of a batch."""

    @torch.inference_mode()
    def add(self, features: Features | None, batch: Batch) -> None:
        if not batch.prompts:
            raise SpecError(
                f"`{self.name}` compares images with their prompts, and these images have none.",
                "Measure a generator that reads prompts, or name the prompts of the images.",
            )
        assert len(batch.prompts) == len(batch), "one prompt for each image"
        self.scores.add(batch.first, self.score(batch))

    def restart(self, images: int) -> None:
        self.scores = PerImage()

    def reduce(self) -> None:
        self.scores.reduce()

    def mean(self) -> tuple[float, float]:
        """The mean over images and its standard error."""
        values = self.scores.tensor()
        if not len(values):
            raise SpecError(f"`{self.name}` has not seen a single image.")
        spread = float(values.std()) if len(values) > 1 else 0.0
        return float(values.mean()), spread / len(values) ** 0.5
