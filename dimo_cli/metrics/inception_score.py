"""Inception Score: how sure the classifier is of each image, and how varied the classes are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from dimo_cli.data.arrays import Batch
from dimo_cli.errors import SpecError
from dimo_cli.metrics.frechet import refuse_nonfinite
from dimo_cli.metrics.manifold import BankMetric, FeatureBank, short_count
from dimo_cli.metrics.protocol import Features, Result

ROWS = 4096


@dataclass(frozen=True, slots=True)
class Splits:
    """How the images are split; the defaults are those of torch-fidelity.

    StyleGAN2-ADA: `shuffle_seed=None`. ADM: `rows=5000, shuffle_seed=None`, the last one shorter.
    dgm-eval: `drop_tail=True`. MaskBit: `count=1, shuffle_seed=None`.
    """

    count: int = 10
    shuffle_seed: int | None = 2020
    """Images in order of their classes ruin a split score: each split then has few classes."""
    rows: int | None = None
    """Splits of a fixed length, whatever `count` says."""
    drop_tail: bool = False
    """Splits of equal length; what is left over is not counted."""

    def of(self, images: int) -> Iterator[slice]:
        """The rows of each split."""
        if self.rows:
            ends = [*range(0, images, self.rows), images]
        elif self.drop_tail:
            ends = [i * (images // self.count) for i in range(self.count + 1)]
        else:
            ends = [i * images // self.count for i in range(self.count + 1)]
        return (slice(a, b) for a, b in pairwise(ends))


@dataclass(frozen=True, slots=True)
class Score:
    """Mean and (population) standard deviation over the splits."""

    mean: float
    std: float


def inception_score(logits: Tensor, splits: Splits | None = None) -> Score:
    """exp(E_x KL(p(y|x) || p(y))) in each split, from class logits [N, C] without bias."""
    splits = splits or Splits()
    refuse_nonfinite(logits)
    if not splits.rows and len(logits) < splits.count:
        raise SpecError(
            f"An Inception Score of {splits.count} splits needs at least {splits.count} images, "
            f"but there are {len(logits)}.",
            "Generate more images.",
        )
    order = torch.arange(len(logits))
    if splits.shuffle_seed is not None:
        shuffled = np.random.RandomState(splits.shuffle_seed).permutation(len(logits))
        order = torch.from_numpy(shuffled)
    scores = [_score(logits, order[rows]) for rows in splits.of(len(logits))]
    return Score(float(np.mean(scores)), float(np.std(scores)))


def _score(logits: Tensor, rows: Tensor) -> float:
    """The score of one split, a few thousand rows at a time.

    E KL(p(y|x) || p(y)) is the entropy of p(y) less the mean entropy of p(y|x).
    """
    marginal = torch.zeros(logits.shape[1], dtype=torch.float64)
    negative_entropy = 0.0
    for part in rows.split(ROWS):
        log_p = logits[part.to(logits.device)].cpu().double().log_softmax(1)
        p = log_p.exp()
        marginal += p.sum(0)
        negative_entropy += float((p * log_p).sum())
    marginal /= len(rows)
    return float(
        np.exp(negative_entropy / len(rows) - float(torch.xlogy(marginal, marginal).sum()))
    )


class InceptionScore(BankMetric):
    """Inception Score of an evaluation; `bank` holds the logits of all images."""

    def __init__(self, bank: FeatureBank, splits: Splits | None = None) -> None:
        super().__init__(bank)
        self.splits = splits or Splits()

    def add(self, features: Features, batch: Batch) -> None:
        """Take in the class logits of a batch."""
        if features.logits is None:
            raise SpecError(
                "The Inception Score needs class logits, and this feature network has no classes.",
                "Choose the Inception network for it.",
            )
        self.bank.add(features.logits, batch.first)

    def results(self) -> list[Result]:
        """One number, with its spread over the splits."""
        logits = self.bank.features()
        score = inception_score(logits, self.splits)
        protocol = {
            "images": len(logits),
            "splits": self.splits.count,
            "split_rows": self.splits.rows,
            "drop_tail": self.splits.drop_tail,
            "shuffle_seed": self.splits.shuffle_seed,
            **self.bank.facts,
        }
        name = f"is{short_count(len(logits))}"
        return [Result(name, score.mean, protocol, {"std": score.std})]
