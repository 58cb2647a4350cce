"""Preference scores: what a reward model says of images and their prompts, on average.

Any reward of `dimo_cli.rewards` serves. For HPS the benchmark has a convention of its own: four
styles of 800 prompts, each reported as the mean and spread of ten chunks of 80, times 100.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dimo_cli.data.arrays import Batch
from dimo_cli.errors import SpecError, counted
from dimo_cli.files.writing import file_sha256
from dimo_cli.metrics.clip_score import published_sha256
from dimo_cli.metrics.per_image import PromptMetric
from dimo_cli.metrics.prompts import PROMPTS_PER_STYLE, STYLES, PromptSet
from dimo_cli.metrics.protocol import Result
from dimo_cli.rewards.protocol import Reward
from dimo_cli.rewards.registry import load_reward
from dimo_cli.teachers.builtin import builtin_path

if TYPE_CHECKING:
    from dimo_cli.hub.store import HubStore
    from dimo_cli.specs.base import Spec

HPS = ("hps_v2.0", "hps_v2.1")
CHUNK = 80


class RewardScore(PromptMetric):
    """The mean of a reward, in the units of its card; HPS is customarily given times 100."""

    def __init__(self, reward: Reward, sha256: str) -> None:
        super().__init__()
        self.reward, self.sha256, self.name = reward, sha256, reward.name
        self.factor = 100 if reward.name in HPS else 1

    def score(self, batch: Batch) -> Tensor:
        images = batch.images.to(self.reward.device).float() / 127.5 - 1
        return self.factor * self.reward(images, self.reward.prepare(batch.prompts))

    def judge(self) -> dict[str, Any]:
        return {"network": self.reward.name, "network_sha256": self.sha256}

    def protocol(self) -> dict[str, Any]:
        """What has to be equal for two scores to be comparable."""
        return {
            **self.judge(),
            "scale": "100 x cosine" if self.factor == 100 else self.reward.scale_note,
            "antialias": self.reward.antialias,
            "dtype": str(self.reward.dtype).removeprefix("torch."),
            "images": len(self.scores),
        }

    def results(self) -> list[Result]:
        mean, error = self.mean()
        return [Result(self.name, mean, self.protocol(), {"standard_error": error})]


def chunked(values: Tensor) -> tuple[float, float]:
    """Mean of the means of chunks of 80 and the spread over these means, as HPSv2 reports them."""
    means = torch.stack([chunk.mean() for chunk in values.split(CHUNK)])
    return float(means.mean()), float(means.std(correction=0))


class HpsBenchmark(RewardScore):
    """HPS of the benchmark's 3,200 prompts: overall, and one number for each style."""

    def __init__(self, reward: Reward, sha256: str, prompts: PromptSet) -> None:
        if reward.name not in HPS or prompts.name != "hpsv2":
            raise SpecError(
                f"The HPSv2 benchmark is of {' or '.join(HPS)} on the prompts of `hpsv2`, "
                f"not of {reward.name} on `{prompts.name}`."
            )
        super().__init__(reward, sha256)
        self.prompts = prompts

    def score(self, batch: Batch) -> Tensor:
        self.prompts.check(batch.first, batch.prompts)
        return super().score(batch)

    def protocol(self) -> dict[str, Any]:
        return {**super().protocol(), **self.prompts.protocol()}

    def results(self) -> list[Result]:
        check_hps_count(self.prompts, len(self.scores))
        styles = self.scores.tensor().view(len(STYLES), PROMPTS_PER_STYLE)
        results = super().results()
        for style, values in zip(STYLES, styles, strict=True):
            mean, spread = chunked(values)
            name = f"{self.name}_{style}"
            results.append(Result(name, mean, self.protocol(), {"spread": spread}))
        results[0].details["styles"] = {r.metric.split("_")[-1]: r.value for r in results[1:]}
        return results


def check_hps_count(prompts: PromptSet, images: int) -> None:
    """Refuse a part of the benchmark."""
    if images != prompts.num_images:
        raise SpecError(
            f"The HPSv2 benchmark has one image for each of its {prompts.num_images:,} prompts, "
            f"not {counted(images, 'image')}.",
            "Measure all of them: leave out `-n`.",
        )


def load_reward_score(
    name: str,
    store: HubStore,
    device: torch.device | str = "cpu",
    prompts: PromptSet | None = None,
    sizes: Spec | None = None,
) -> RewardScore:
    """The metric of a reward; on the prompts of `hpsv2` an HPS follows its benchmark.

    `sizes` is for a network of one's own.
    """
    reward = load_reward(name, store, device, sizes)
    sha256 = reward_sha256(reward, store)
    if name in HPS and prompts is not None and prompts.name == "hpsv2":
        return HpsBenchmark(reward, sha256, prompts)
    return RewardScore(reward, sha256)


def reward_sha256(reward: Reward, store: HubStore) -> str:
    """Hash of a reward's weights: of the published file, or of the one that ships inside dimo."""
    if reward.card.weights.files:
        return published_sha256(store, reward.card.weights)
    return file_sha256(Path(builtin_path(f"{reward.name}.safetensors")))
