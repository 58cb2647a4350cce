"""MaskGen-VQ: prompts to images of 256 pixels through 128 tokens of TA-TiTok.

Text comes in twice, each time as CLIP ViT-L/14@336 sees it: the generator reads the states before
the last layer and the projected pooled one, the tokenizer's decoder reads the final states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dimo_cli.errors import MissingError, NotThere
from dimo_cli.hub.published import HubFile, Published, StateDict, Store
from dimo_cli.teachers.blueprint import Blueprint, ReadConfig, Settings, read_architecture
from dimo_cli.teachers.clip_text import (
    build_clip_text,
    clip_text_weights,
    features,
    fill_clip_text,
    open_clip_json,
    open_clip_tokens,
)
from dimo_cli.teachers.conditioning import PromptConditioner, TextEncoder, TextTower
from dimo_cli.teachers.maskgen.architecture import SHARED, Architecture, settings_of
from dimo_cli.teachers.maskgen.generator import MaskGenBackbone
from dimo_cli.teachers.maskgen.sampler import maskgen_plan
from dimo_cli.teachers.maskgen.tokenizer import TATiTok
from dimo_cli.teachers.protocol import SamplerDefaults, TokenSpace


@dataclass(frozen=True, slots=True)
class Variant:
    """One published generator."""

    repo: str
    pickle: str
    """Its file in the authors' collection of all generators."""
    summary: str
    sizes: Mapping[str, int]


VARIANTS: dict[str, Variant] = {
    "maskgen-l": Variant(
        "turkeyju/generator_maskgen_vq_l",
        "maskgen_vq_l.bin",
        "text, 256 px, 128 tokens, 604M parameters",
        {"decoder_embed_dim": 1024, "decoder_depth": 16, "decoder_num_heads": 16},
    ),
    "maskgen-xl": Variant(
        "turkeyju/generator_maskgen_vq_xl",
        "maskgen_vq_xl.bin",
        "text, 256 px, 128 tokens, 1.2B parameters",
        {"decoder_embed_dim": 1280, "decoder_depth": 20, "decoder_num_heads": 16},
    ),
}

TOKENIZER_REPO = "turkeyju/tokenizer_tatitok_bl128_vq"
TEXT_REPO = "timm/vit_large_patch14_clip_336.openai"
OPENAI_REPO = "openai/clip-vit-large-patch14-336"
TEXT = Published(
    (
        HubFile(TEXT_REPO, "open_clip_model.safetensors"),
        HubFile(TEXT_REPO, "open_clip_pytorch_model.bin"),
        HubFile(OPENAI_REPO, "model.safetensors"),
        HubFile(OPENAI_REPO, "pytorch_model.bin"),
    ),
    convert=clip_text_weights,
)


def generator_weights(weights: StateDict) -> StateDict:
    """The embedding is the output layer too: files list it once, or twice under both names."""
    twin = weights.get("lm_head.weight")
    if twin is None:
        return weights
    if not torch.equal(twin, weights.get("embeddings.weight", twin)):
        raise MissingError(
            "`lm_head.weight` and `embeddings.weight` differ, and MaskGen has one for both.",
            "dimo cannot load a generator that was trained with the two untied.",
        )
    return {name: tensor for name, tensor in weights.items() if name != "lm_head.weight"}


def tokenizer_weights(weights: StateDict) -> StateDict:
    """All but how often each code was used in training, which some files have as a buffer."""
    return {name: tensor for name, tensor in weights.items() if name != "quantize.embed_prob"}


class MaskGenText(TextTower):
    """CLIP's features under the names of MaskGen's conditions."""

    def __init__(self, tower: nn.Module, length: int) -> None:
        super().__init__(tower)
        self.length = length

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        return open_clip_tokens(prompts, self.length)

    def states(self, ids: Tensor) -> dict[str, Tensor]:
        found = features(self.network, ids)
        return {
            "text": found["penultimate"],
            "pooled": found["pooled"],
            "decoder_text": found["final"],
        }

    def tokenizer_json(self) -> str:
        return open_clip_json(self.length)


def load_text_encoder(arch: Architecture, store: Store) -> MaskGenText:
    """The text encoder with its published weights."""
    width = arch.text_embed_dim
    tower = build_clip_text(
        {
            "vocab_size": 49408,
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "projection_dim": width,
            "num_hidden_layers": arch.text_layers,
            "num_attention_heads": arch.text_heads,
            "max_position_embeddings": arch.text_context_length,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
            "eos_token_id": 49407,
        }
    )
    fill_clip_text(tower, store.weights(TEXT), f"`{TEXT.files[0]}`")
    return MaskGenText(tower, arch.text_context_length)


def build_conditioner(arch: Architecture, store: Store | None) -> PromptConditioner:
    """Prompts, the empty one as null, and one aesthetic score for all."""

    def load_encoder() -> TextEncoder:
        assert store is not None, "a blank conditioner encodes no prompts"
        return load_text_encoder(arch, store)

    origin = store.origin() if store else "nowhere"
    width, states = arch.text_embed_dim, (arch.text_context_length, arch.text_embed_dim)
    return PromptConditioner(
        {"text": states, "pooled": (width,), "decoder_text": states},
        load_encoder,
        key=f"{OPENAI_REPO}, {arch.text_layers} layers, padded with zeros, from {origin}",
        cache=store.prompt_cache() if store else None,
        constants={"aesthetic": torch.tensor(float(arch.sample_aesthetic_score))},
    )


def read_settings(files: Sequence[HubFile], read_config: ReadConfig) -> dict[str, Any]:
    """What the config files say; the authors' collections of weights have none."""
    settings: dict[str, Any] = {}
    for file in files:
        try:
            settings |= settings_of(read_config(file), str(file))
        except NotThere:
            continue
    return settings


def blueprint(
    variant: str, architecture: Settings, read_config: ReadConfig | None = None
) -> Blueprint:
    """The blueprint of a published variant."""
    facts = VARIANTS[variant]
    # Both files describe the tokenizer; its own is the one to believe.
    configs = (HubFile(facts.repo, "config.json"), HubFile(TOKENIZER_REPO, "config.json"))
    from_repos = read_settings(configs, read_config) if read_config else {}
    published = {**SHARED, **facts.sizes, **from_repos}
    arch = read_architecture(Architecture, published, architecture)
    return Blueprint(
        name=variant,
        family="maskgen",
        license="Apache-2.0",
        summary=facts.summary,
        space=TokenSpace(
            length=arch.num_latent_tokens,
            groups=1,
            vocab=arch.codebook_size,
            codes=arch.codebook_size,
            mask_id=arch.codebook_size,
            image_size=arch.crop_size,
            grid=None,
        ),
        # The authors' guidance of 12 is 13 in the standard form.
        sampler=SamplerDefaults(steps=16, guidance=13.0, plan=maskgen_plan, choice_noise=2.0),
        build_backbone=partial(MaskGenBackbone, arch),
        build_tokenizer=partial(TATiTok, arch),
        build_conditioner=partial(build_conditioner, arch),
        backbone=Published(
            (
                HubFile(facts.repo, "model.safetensors"),
                HubFile("fun-research/MaskGen", facts.pickle),
            ),
            convert=generator_weights,
        ),
        tokenizer=Published(
            (
                HubFile(TOKENIZER_REPO, "model.safetensors"),
                HubFile("fun-research/TA-TiTok", "tatitok_bl128_vq.bin"),
            ),
            convert=tokenizer_weights,
        ),
        other_files=(*configs, TEXT.files[0]),
        architecture=arch.model_dump(),
        takes_prompts=True,
    )
