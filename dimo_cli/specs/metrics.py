"""The numbers that a run can be held against: their names, and which way is better."""

from __future__ import annotations

from typing import Literal

# fmt: off
RunMetric = Literal[
    "fid", "kid", "is", "precision", "recall", "density", "coverage", "fdd",
    "clip", "hps", "image_reward", "pickscore", "geneval", "emoji",
]
# fmt: on
TITLES = {
    "fid": "FID",
    "kid": "KID",
    "is": "Inception Score",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "fdd": "FD-DINOv2",
    "clip": "CLIP score",
    "hps": "HPS",
    "image_reward": "ImageReward",
    "pickscore": "PickScore",
    "geneval": "GenEval",
    "emoji": "emoji score",
}
REWARDS_OF_EMOJI = ("emoji_clip", "emoji_preference")  # no scores of the benchmark
FALLING = ("fid", "kid", "fdd")
NEIGHBORS = ("precision", "recall", "density", "coverage")  # `dimo eval pr` measures all four
WITH_REFERENCE = (*FALLING, *NEIGHBORS)
WITH_PROMPTS = ("clip", "hps", "image_reward", "pickscore", "geneval", "emoji")
WHOLE_SETS = ("hps", "geneval", "emoji")  # benchmarks: their scores are of all their prompts


def falls(metric: str) -> bool:
    """Whether less is better, by the name of a metric or of its result, such as `fid50k`."""
    return metric.startswith(FALLING)


def is_better(metric: str, value: float, other: float) -> bool:
    """Whether a value is better than another one; NaN never is."""
    return value < other if falls(metric) else value > other


def title_of(metric: str) -> str:
    """What people call the metric of a result, such as `fid50k`."""
    if metric in REWARDS_OF_EMOJI:
        return metric
    return next((title for name, title in TITLES.items() if metric.startswith(name)), metric)
