"""Published numbers of the presets' teachers and students, to show beside a measured one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dimo_cli.metrics.inception import NAME as INCEPTION
from dimo_cli.metrics.manifold import short_count
from dimo_cli.metrics.protocol import Result
from dimo_cli.specs.evaluate import ResizeName
from dimo_cli.specs.metrics import NEIGHBORS
from dimo_cli.specs.tteo import RENO_WEIGHTS


@dataclass(frozen=True, slots=True)
class Expected:
    """A published value, how far from it is still the same, and where it stands."""

    metric: str
    """What it is known as, such as `fid`."""
    value: float
    tolerance: float
    source: str
    images: int
    """Sample count of the published number; another count does not compare."""
    resize: ResizeName | None = None
    """How Inception was shown the images; None: another network looked."""

    @property
    def full(self) -> str:
        """The name of the measured number that it compares with."""
        if self.metric in NEIGHBORS:
            return f"{self.metric}_k3"
        if self.metric in ("fid", "is"):
            return f"{self.metric}{short_count(self.images)}"
        return FULL.get(self.metric, self.metric)

    def compares(self, result: Result) -> bool:
        """Whether a measured number was found as this one was."""
        if (self.full, self.images) != (result.metric, result.protocol.get("images")):
            return False
        if self.resize is None:
            return True
        network: Mapping[str, Any] = result.protocol.get("network", {})
        return (network.get("name"), network.get("resize")) == (INCEPTION, self.resize)

    def compare(self, measured: float) -> str:
        """The difference, and whether it is within the tolerance."""
        state = "within" if abs(measured - self.value) <= self.tolerance else "beyond"
        return f"{self.value:g}, {measured - self.value:+.3f} ({state} {self.tolerance:g})"


# Of those whose name has a convention beside count and k.
FULL = {"clip": "clip_score_g14", "geneval": "geneval_mask2former"}
DIMO = "Di[M]O"
# What Soft-Di[M]O was trained with. MaskBit's longer run is another stage, told by its GAN weight.
GAN, LONGER, REWARD, REWARD_ALONE = (
    "Di[M]O, GAN",
    "Di[M]O, GAN weight 200",
    "Di[M]O, reward",
    "reward",
)
OPTIMIZED = f"{REWARD}, TTEO 4x4"  # with ReNO's rewards: "+TTS"
ADM: ResizeName = "legacy_tensorflow"  # how its statistics were taken, which the papers take
TABLE_1, TABLE_2, TABLE_3 = (f"Soft-Di[M]O, Table {n}" for n in (1, 2, 3))


def imagenet(source: str, fid: float, score: float, *others: float) -> tuple[Expected, ...]:
    """FID and IS of 50,000 images, then precision, recall, density and coverage."""
    names = ("precision", "recall", "density", "coverage")
    return (
        Expected("fid", fid, 0.1, source, 50_000, ADM),
        Expected("is", score, 4.0, source, 50_000, ADM),
        *(
            Expected(name, value, 0.01, source, 50_000, ADM)
            for name, value in zip(names[: len(others)], others, strict=True)
        ),
    )


def text(fid: float | None, clip: float, geneval: float, hps: float) -> tuple[Expected, ...]:
    """COCO-30K's FID and CLIP score, GenEval and HPSv2.1."""
    found = [
        Expected("clip", clip, 0.003, TABLE_3, 30_000),
        Expected("geneval", geneval, 0.02, TABLE_3, 2212),
        Expected("hps_v2.1", hps, 0.2, TABLE_3, 3200),
    ]
    return (*([Expected("fid", fid, 0.3, TABLE_3, 30_000, "clean")] if fid else []), *found)


HALTON = "Halton-MaskGIT's README, statistics of its own"


def halton(fid: float, score: float) -> dict[str, tuple[Expected, ...]]:
    """A teacher in 32 steps: measured against other statistics than the papers' numbers are."""
    return {
        "32": (
            Expected("fid", fid, 0.3, HALTON, 50_000, "clean"),
            Expected("is", score, 8.0, HALTON, 50_000, "clean"),
        )
    }


# By teacher, and then by the losses of the student or the steps of the teacher.
PUBLISHED: Mapping[str, Mapping[str, tuple[Expected, ...]]] = {
    "maskgit": {
        "16": imagenet(TABLE_2, 6.60, 224.1, 0.83, 0.40, 1.25, 0.98),
        "8": imagenet(TABLE_2, 6.66, 221.6, 0.83, 0.40, 1.23, 0.97),
        "4": imagenet(TABLE_2, 10.73, 192.3, 0.75, 0.31, 1.01, 0.92),
        "2": imagenet(TABLE_2, 91.35, 13.4, 0.18, 0.16, 0.09, 0.12),
        DIMO: imagenet(TABLE_2, 6.91, 214.0, 0.83, 0.38, 1.26, 0.97),
        GAN: imagenet(TABLE_2, 6.40, 214.8, 0.83, 0.39, 1.27, 0.97),
    },
    "maskbit": {
        "64": imagenet(TABLE_1, 1.66, 320.0, 0.81, 0.60),
        DIMO: imagenet(TABLE_1, 2.89, 310.1, 0.87, 0.49),
        GAN: imagenet(TABLE_1, 1.96, 281.4, 0.84, 0.55),
        LONGER: imagenet(TABLE_1, 1.56, 273.2, 0.81, 0.60),
    },
    "maskgen-l": {
        "16": text(22.64, 0.312, 0.48, 27.60),
        DIMO: text(24.15, 0.299, 0.42, 27.14),
        REWARD: text(23.43, 0.321, 0.51, 29.38),
        OPTIMIZED: (
            Expected("geneval", 0.63, 0.02, TABLE_3, 2212),
            Expected("hps_v2.1", 31.95, 0.2, TABLE_3, 3200),
        ),
    },
    "meissonic": {
        "32": text(50.13, 0.318, 0.46, 29.63),
        DIMO: text(38.45, 0.322, 0.43, 28.59),
        REWARD_ALONE: text(28.33, 0.319, 0.53, 32.35),
    },
    "muddit": {"64": (Expected("geneval", 0.61, 0.02, "Muddit, Table 1", 2212),)},
    "lumina-dimoo": {"64": (Expected("geneval", 0.88, 0.05, "Lumina-DiMOO, GenEval", 2212),)},
    "halton-tiny": halton(10.2, 185),
    "halton-small": halton(6.40, 255),
    "halton-base": halton(4.17, 263),
    "halton-small-384": halton(6.11, 241),
    "halton-base-384": halton(4.15, 257),
    "halton-large-384": halton(2.59, 281),
}


def expected_value(result: Result, subject: Mapping[str, Any]) -> Expected | None:
    """The published number that a result compares with, if there is one."""
    teacher = str(subject.get("teacher", "")).partition("@")[0]
    steps = subject.get("steps", "")
    if subject.get("target") == "student" and steps not in ("", 1):
        return None  # published numbers of several steps are of teachers
    method = str(subject.get("method") or steps)
    published = PUBLISHED.get(teacher, {})
    losses = losses_of(method)
    if tteo := subject.get("tteo"):
        if tteo["rewards"] != RENO_WEIGHTS:
            return None
        losses += f", TTEO {tteo['budget']}"
    rows = published.get(losses) or published.get(re.sub(r" weight \S+$", "", losses), ())
    return next((known for known in rows if known.compares(result)), None)


def losses_of(method: str) -> str:
    """What tells a published row: all losses of Soft-Di[M]O, whichever rewards; else the method."""
    found = re.fullmatch(r"Soft-Di\[M\]O \((.*)\)", method)
    if found is None:
        return method
    losses = [
        "reward" if loss.startswith("reward ") else loss.removesuffix(".0")
        for loss in found[1].split(", ")
    ]
    return ", ".join(dict.fromkeys(losses))
