"""The Frechet distance between the features of images and those of a reference."""

from __future__ import annotations

from typing import Any

from dimo_cli.data.arrays import Batch
from dimo_cli.metrics.frechet import RunningGaussian, frechet_distance
from dimo_cli.metrics.manifold import short_count
from dimo_cli.metrics.protocol import FeatureNetwork, Features, Metric, Result
from dimo_cli.metrics.references import Reference, network_facts

FEW, NOTABLE = 10_000, 0.01  # images, and what share of the value their lack has to make up


class Fid(Metric):
    """The Frechet distance of an evaluation's images to a reference, under a network's name."""

    def __init__(self, reference: Reference, network: FeatureNetwork, name: str = "fid") -> None:
        self.reference, self.network, self.name = reference, network, name
        self.running = RunningGaussian(network.dimensions)

    def add(self, features: Features, batch: Batch) -> None:
        """Take in the features of a batch."""
        self.running.add(features.vectors)

    def restart(self, images: int) -> None:
        """Forget the features so far."""
        self.running = RunningGaussian(self.network.dimensions)

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
        details: dict[str, Any] = {"warning": found.warning} if found.warning else {}
        # Of the mean alone, exactly; that of the covariances comes on top of it.
        bias = float(found.covariance.diagonal().sum()) / max(1, found.count)
        if found.count < FEW and bias > NOTABLE * value:
            details["few_images"] = (
                f"{self.name.upper()} of {found.count:,} images is too high by about {bias:.2g} "
                "or more, for want of images; compare it only with the same number of them."
            )
        return [Result(f"{self.name}{short_count(found.count)}", value, protocol, details)]
