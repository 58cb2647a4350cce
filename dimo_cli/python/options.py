"""Keywords that are fields of a spec, for editors and type checkers; the spec has their limits."""

from __future__ import annotations

from typing import TypedDict

from dimo_cli.specs.evaluate import FeatureName, ResizeName
from dimo_cli.specs.sample import SamplerMethod


class SamplerOptions(TypedDict, total=False):
    """How images are drawn, by a student in one pass or by its teacher in many."""

    teacher: bool
    seed: int
    temperature: float | None
    top_k: int
    top_p: float
    r_init: float | None
    method: SamplerMethod
    steps: int | None
    guidance: float | None
    precision: str


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
