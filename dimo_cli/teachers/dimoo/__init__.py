"""Lumina-DiMOO (Xin et al., 2025): prompts to images by a masked language model of 8B parameters.

Image codes are the last rows of its vocabulary. Only they are predicted here: the rows of words are
left out of the output.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from dimo_cli.hub.published import HubFile, Published, StateDict, Store
from dimo_cli.teachers import vq_model
from dimo_cli.teachers.amused_parts import network_files, settings
from dimo_cli.teachers.blueprint import Blueprint, ReadConfig, Settings, read_architecture
from dimo_cli.teachers.conditioning import TextEncoder
from dimo_cli.teachers.dimoo.architecture import Architecture
from dimo_cli.teachers.dimoo.network import DimooBackbone
from dimo_cli.teachers.dimoo.prompts import UNCONDITION, IdsConditioner, load_encoder
from dimo_cli.teachers.plans import SCHEDULES, masked_counts
from dimo_cli.teachers.protocol import SamplerDefaults, Step, TokenSpace
from dimo_cli.teachers.vq_model import VQTokenizer

REPO = "Alpha-VLLM/Lumina-DiMOO"
CONFIG, VQ_CONFIG, TOKENIZER, INDEX = (
    HubFile(REPO, path)
    for path in (
        "config.json",
        "vqvae/config.json",
        "tokenizer.json",
        "model.safetensors.index.json",
    )
)
PREFIX, HEAD = "model.transformer.", "ff_out.weight"
HALF = 2  # bytes of a published number, which is in bfloat16
STEPS = 64
GUIDANCE = 5.0  # the authors' 4, as they count: (1 + s) z_c - s z_u

PUBLISHED: dict[str, Any] = {
    "vocab_size": 134_548,
    "d_model": 4096,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "mlp_hidden_size": 12_288,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "mask_token_id": 126_336,
    "image_size": 1024,
}


def image_weights(first: int, codes: int, weights: StateDict) -> StateDict:
    """All but the output rows of words, which no image is drawn from."""
    plain = {name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}
    if HEAD in plain:
        plain[HEAD] = plain[HEAD][first : first + codes]
    return plain


def dimoo_plan(steps: int, slots: int, guidance: float, choice_noise: float) -> list[Step]:
    """The published sampler: cosine counts, and one temperature for both draws of every step.

    The authors divide the logits of the token draw by it, which is the same as so much noise.
    """
    counts = masked_counts(SCHEDULES["cosine"](torch.arange(1, steps + 1) / steps), slots)
    return [
        Step(count, guidance, token_noise=choice_noise, choice_noise=choice_noise)
        for count in counts
    ]


def read_networks(architecture: Settings, read_config: ReadConfig | None) -> Architecture:
    """The architecture of both networks: published facts, then config files, then the user's."""
    network, vqvae = dict(PUBLISHED), dict(vq_model.PUBLISHED)
    if read_config is not None:
        config = read_config(CONFIG)  # most of it is about how training began
        network |= {name: config[name] for name in Architecture.model_fields if name in config}
        vqvae |= settings(read_config(VQ_CONFIG), vq_model.UNUSED_SETTINGS)
    overrides = dict(architecture)
    if isinstance(overrides.get("vqvae"), dict):
        overrides["vqvae"] = {**vqvae, **overrides["vqvae"]}
    return read_architecture(Architecture, {**network, "vqvae": vqvae}, overrides)


def build_conditioner(arch: Architecture, store: Store | None) -> IdsConditioner:
    """Prompts in their template, and no words at all as null."""

    def load() -> TextEncoder:
        assert store is not None, "a blank conditioner encodes no prompts"
        return load_encoder(TOKENIZER, arch.text_length, store)

    shapes = {"text": (arch.text_length,)}
    return IdsConditioner(shapes, load, key=str(TOKENIZER), negative_prompt=UNCONDITION)


def blueprint(
    variant: str, architecture: Settings, read_config: ReadConfig | None = None
) -> Blueprint:
    """The blueprint of the published model."""
    arch = read_networks(architecture, read_config)
    return Blueprint(
        name=variant,
        family="dimoo",
        license="other",  # the code is under Apache-2.0; what the weights' card says was not seen
        summary=f"prompts to {arch.image_size}x{arch.image_size}, 8.1B parameters",
        space=TokenSpace(
            length=arch.grid[0] * arch.grid[1],
            groups=1,
            vocab=arch.codes,
            codes=arch.codes,
            mask_id=arch.codes,
            image_size=arch.image_size,
            grid=arch.grid,
        ),
        sampler=SamplerDefaults(STEPS, GUIDANCE, dimoo_plan, choice_noise=1.0, schedule="cosine"),
        build_backbone=partial(DimooBackbone, arch, arch.grid),
        build_tokenizer=partial(VQTokenizer, arch.vqvae, arch.grid),
        build_conditioner=partial(build_conditioner, arch),
        backbone=Published(
            (INDEX,),
            convert=partial(image_weights, arch.first_code, arch.codes),
            number_bytes=HALF,
            dropped=HALF * arch.first_code * arch.d_model,
        ),
        tokenizer=network_files(REPO, "vqvae"),
        other_files=(CONFIG, VQ_CONFIG, TOKENIZER),
        architecture=arch.model_dump(),
        takes_prompts=True,
    )
