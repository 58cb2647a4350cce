"""TiTok (Yu et al., 2024): ImageNet 256x256 in 32 to 128 tokens, each with a generator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from dimo_cli.errors import NotThere, SpecError
from dimo_cli.hub.published import HubFile, Published, unchanged
from dimo_cli.teachers.blueprint import Blueprint, ReadConfig, Settings, read_architecture
from dimo_cli.teachers.conditioning import ClassConditioner
from dimo_cli.teachers.imagenet import class_ids, class_names
from dimo_cli.teachers.protocol import SamplerDefaults, TokenSpace
from dimo_cli.teachers.titok.architecture import Architecture
from dimo_cli.teachers.titok.bert import BertGenerator, convert_bert
from dimo_cli.teachers.titok.sampler import growing_plan
from dimo_cli.teachers.titok.tokenizer import TiTokTokenizer
from dimo_cli.teachers.titok.uvit import UViTGenerator

BERT = {
    "model_type": "ViT",
    "hidden_size": 768,
    "num_hidden_layers": 24,
    "intermediate_size": 3072,
}
UVIT = {
    "model_type": "UViT",
    "hidden_size": 1024,
    "num_hidden_layers": 20,
    "intermediate_size": 4096,
}


@dataclass(frozen=True, slots=True)
class Variant:
    """One published pair of tokenizer and generator."""

    tokenizer: str
    """Size of its two transformers."""
    tokens: int
    generator: Mapping[str, Any]
    parameters: str
    """Of the generator."""
    sampler: SamplerDefaults


# The authors write linear guidance as z_c + s (z_c - z_u), with s = 3.0 for B-64 and 4.5 for L-32.
VARIANTS: dict[str, Variant] = {
    "titok-s128": Variant(
        "small",
        128,
        UVIT,
        "295M",
        SamplerDefaults(
            steps=64, guidance=6.9, plan=growing_plan("power-cosine"), choice_noise=2.8
        ),
    ),
    "titok-b64": Variant(
        "base",
        64,
        BERT,
        "177M",
        SamplerDefaults(steps=8, guidance=1 + 3.0, plan=growing_plan("linear"), choice_noise=11.0),
    ),
    "titok-l32": Variant(
        "large",
        32,
        BERT,
        "177M",
        SamplerDefaults(steps=8, guidance=1 + 4.5, plan=growing_plan("linear"), choice_noise=9.5),
    ),
}

# What other tokenizers of the same repositories say here, with the default where nothing is said.
FIXED = {"quantize_mode": "vq", "use_l2_norm": True, "is_legacy": True, "finetune_decoder": True}


def config_facts(config: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The settings that a published config file has for `part`, under our names, which are its."""
    model = config.get("model", {})
    for key, value in FIXED.items():
        if model.get("vq_model", {}).get(key, value) != value:
            raise SpecError(
                f"The config file says `{key}: {model['vq_model'][key]}`, and dimo knows TiTok "
                f"with `{key}: {value}` only."
            )
    found = {**config.get("dataset", {}).get("preprocessing", {}), **model.get(part, {})}
    return {key: value for key, value in found.items() if key in Architecture.model_fields}


def published_facts(variant: str, read_config: ReadConfig | None) -> dict[str, Any]:
    """What is known of a variant, and what its config files say where they can be read."""
    known = VARIANTS[variant]
    facts = {
        "num_latent_tokens": known.tokens,
        "vit_enc_model_size": known.tokenizer,
        "vit_dec_model_size": known.tokenizer,
        **known.generator,
    }
    if read_config is None:
        return facts
    for part, key in (("tokenizer", "vq_model"), ("generator", "generator")):
        try:
            config = read_config(HubFile(repository(variant, part), "config.json"))
        except NotThere:  # a folder with nothing but weights: they are checked all the same
            continue
        facts |= config_facts(config, key)
    return facts


def repository(variant: str, part: str) -> str:
    """Where one network of a variant is published."""
    return f"yucornetto/{part}_{variant.replace('-', '_')}_imagenet"


def weight_files(variant: str, part: str) -> tuple[HubFile, ...]:
    """The published weights of one network, and the same weights as a pickle."""
    return (
        HubFile(repository(variant, part), "model.safetensors"),
        HubFile("fun-research/TiTok", f"{part}_{variant.replace('-', '_')}.bin"),
    )


def token_space(arch: Architecture) -> TokenSpace:
    """A sequence of codes; the mask comes after them, and then the classes."""
    return TokenSpace(
        length=arch.num_latent_tokens,
        groups=1,
        vocab=arch.codebook_size,
        codes=arch.codebook_size,
        mask_id=arch.codebook_size,
        image_size=arch.decoded_size,
        grid=None,
        class_ids=range(
            arch.codebook_size + 1, arch.codebook_size + 1 + arch.condition_num_classes
        ),
    )


def blueprint(
    variant: str, architecture: Settings, read_config: ReadConfig | None = None
) -> Blueprint:
    """All there is to know of a published variant."""
    known = VARIANTS[variant]
    arch = read_architecture(Architecture, published_facts(variant, read_config), architecture)
    is_bert = arch.model_type == "ViT"
    is_imagenet = arch.condition_num_classes == 1000
    return Blueprint(
        name=variant,
        family="titok",
        license="Apache-2.0",
        summary=f"ImageNet 256x256, {known.tokens} 1-D tokens, {known.parameters} parameters",
        space=token_space(arch),
        sampler=known.sampler,
        build_backbone=partial(BertGenerator if is_bert else UViTGenerator, arch),
        build_tokenizer=partial(TiTokTokenizer, arch),
        build_conditioner=lambda store: ClassConditioner(arch.condition_num_classes),
        backbone=Published(
            weight_files(variant, "generator"), convert=convert_bert if is_bert else unchanged
        ),
        tokenizer=Published(weight_files(variant, "tokenizer")),
        other_files=tuple(
            HubFile(repository(variant, part), "config.json") for part in ("tokenizer", "generator")
        ),
        architecture=arch.model_dump(),
        class_names=class_names() if is_imagenet else (),
        class_ids=class_ids() if is_imagenet else (),
    )
