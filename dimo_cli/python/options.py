"""Keywords that are fields of a spec, for editors and type checkers; the spec has their limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict

from dimo_cli.errors import SpecError, did_you_mean
from dimo_cli.specs.evaluate import FeatureName, ResizeName
from dimo_cli.specs.sample import SamplerMethod


class SamplerOptions(TypedDict, total=False):
    """How images are drawn, by a student in one pass or a few, or by its teacher in many."""

    teacher: bool
    seed: int
    temperature: float | None
    top_k: int
    top_p: float
    r_init: float | None
    method: SamplerMethod
    steps: int | None
    guidance: float | None
    precision: Literal["auto", "fp32"]


class EvalOptions(SamplerOptions, total=False):
    """How images are drawn and measured."""

    samples: int | None
    reference: str | None
    features: FeatureName | None
    resize: ResizeName | None
    inception: str | None
    neighbors: int
    prompts: str | None
    crop: int | None
    save_images: str | None
    tteo: str | None
    tteo_rewards: Mapping[str, float]
    tteo_decode: Literal["soft", "argmax"]


def check_known(options: Mapping[str, object], kind: type[SamplerOptions]) -> None:
    """Refuse a keyword that is none of these; Python itself lets all of them pass."""
    for name in options:
        if name not in kind.__annotations__:
            raise SpecError(
                f"There is no argument `{name}`.", did_you_mean(name, kind.__annotations__)
            )
