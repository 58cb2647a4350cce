"""How many images are taken for what they were drawn as."""

from __future__ import annotations

from dimo_cli.data.arrays import Batch
from dimo_cli.metrics.protocol import FeatureNetwork, Features, Metric, Result


class Accuracy(Metric):
    """The share of images that a network takes for the class they were drawn as."""

    def __init__(self, network: FeatureNetwork) -> None:
        self.network = network
        self.restart(0)

    def restart(self, images: int) -> None:
        """Count anew."""
        self.correct, self.seen = 0, 0

    def add(self, features: Features, batch: Batch) -> None:
        """Count what is right in a batch."""
        guesses = self.network.guess(features).tolist()
        self.correct += sum(a == b for a, b in zip(guesses, batch.labels, strict=True))
        self.seen += len(batch)

    def reduce(self) -> None:
        """Nothing: only runs ask for it, and they measure in one process."""

    def results(self) -> list[Result]:
        """One number."""
        return [Result("accuracy", self.correct / self.seen, {"images": self.seen})]
