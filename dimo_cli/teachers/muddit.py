"""Muddit (Shi et al., 2025): the second Meissonic, which draws from prompts and describes pictures.

Images take the network of Meissonic and nothing else. What turns text positions into words stays
out. Its repository holds the transformers of two resolutions; all else is Meissonic's own.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

from pydantic import Field

from dimo_cli.hub.published import StateDict
from dimo_cli.specs.base import Int
from dimo_cli.teachers.amused_parts import Told, Variant, build_blueprint, read_networks
from dimo_cli.teachers.blueprint import Blueprint, ReadConfig, Settings
from dimo_cli.teachers.meissonic import (
    GUIDANCE,
    NEGATIVE_PROMPT,
    PUBLISHED,
    UNUSED_SETTINGS,
    MeissonicBackbone,
    NetworkArchitecture,
)
from dimo_cli.teachers.meissonic import VARIANTS as MEISSONIC

STEPS = 64
TEXT_HEAD = "text_decoder.1.weight"
BYTES = 4  # of a published number, which is in float32


class Architecture(NetworkArchitecture):
    """The settings of the transformer. The pooled text may be of any width here."""

    tokenizer_vocab_size: Int = Field(
        49408, gt=0, description="Words of the text head, which draws no images and is not built"
    )
    t5_dim: None = Field(None, description="Width of another text encoder: not published")
    told_time: Told = Field(
        "share",
        description="What the sampler tells the network of the steps that are left: their share "
        "of all (`share`), or their number (`index`) as its authors did before 30 July 2025",
    )


def variant_of(pixels: Literal[512, 1024]) -> Variant:
    """The transformer of one resolution. Nothing in its files tells it but their folder."""
    return Variant(
        "MeissonFlow/Muddit",
        "Apache-2.0",
        f"prompts to {pixels}x{pixels}, 1.0B parameters",
        image_size=pixels,
        resamples=True,
        steps=STEPS,
        folder=f"{pixels}/transformer",
        tokenizers_repo=MEISSONIC["meissonic"].repo,
    )


VARIANTS: dict[str, Variant] = {"muddit": variant_of(512), "muddit-1024": variant_of(1024)}


def image_weights(weights: StateDict) -> StateDict:
    """All but the text head. Compiled training leaves a prefix in names."""
    plain = {name.replace("_orig_mod.", ""): tensor for name, tensor in weights.items()}
    return {name: tensor for name, tensor in plain.items() if name != TEXT_HEAD}


def blueprint(
    variant: str, architecture: Settings, read_config: ReadConfig | None = None
) -> Blueprint:
    """The blueprint of a published variant."""
    facts = VARIANTS[variant]
    arch = read_networks(Architecture, facts, PUBLISHED, UNUSED_SETTINGS, architecture, read_config)
    drawing = build_blueprint(
        variant,
        "muddit",
        facts,
        arch,
        build_backbone=partial(MeissonicBackbone, arch, arch.grid),
        text_widths=(arch.joint_attention_dim, arch.pooled_projection_dim),
        guidance=GUIDANCE,
        told=arch.told_time,
        negative_prompt=NEGATIVE_PROMPT,
    )
    text_head = BYTES * arch.tokenizer_vocab_size * arch.width
    weights = replace(drawing.backbone, convert=image_weights, dropped=text_head)
    return replace(drawing, backbone=weights)
