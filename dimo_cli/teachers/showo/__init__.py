"""Show-o (Xie et al., 2024): prompts to 256 or 512 px by a language model that draws as well.

Text and image are one sequence through phi-1.5; image tokens are those of MAGVIT-v2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from dimo_cli.errors import MissingError
from dimo_cli.hub.published import HubFile, Published, StateDict
from dimo_cli.teachers.blueprint import Blueprint, ReadConfig, Settings, read_architecture
from dimo_cli.teachers.protocol import SamplerDefaults, TokenSpace
from dimo_cli.teachers.showo.architecture import OF_PHI, Architecture, settings_of
from dimo_cli.teachers.showo.sampler import showo_plan
from dimo_cli.teachers.showo.text import WORDS, build_conditioner
from dimo_cli.teachers.showo.tokenizer import MagvitTokenizer, signs_of
from dimo_cli.teachers.showo.transformer import ShowoBackbone

WEIGHTS = "pytorch_model.safetensors"
TOKENIZER = HubFile("showlab/magvitv2", WEIGHTS)
PHI = HubFile("microsoft/phi-1_5", "config.json")
PREFIX = "showo."


@dataclass(frozen=True, slots=True)
class Variant:
    """One published model; `weight` is g of z_c + g (z_c - z_u), as the authors write it."""

    repo: str
    license: str
    side: int
    weight: float
    steps: int
    size: int | None = None

    @property
    def config(self) -> HubFile:
        """What its repository says of its sizes."""
        return HubFile(self.repo, "config.json")


VARIANTS: dict[str, Variant] = {
    # As its authors sampled before they turned to the larger one.
    "showo": Variant("showlab/show-o", "MIT", 16, 1.75, 18, size=5_792_758_016),
    "showo-512": Variant("showlab/show-o-512x512", "Apache-2.0", 32, 5.0, 50),
}


def transformer_weights(weights: StateDict) -> StateDict:
    """Published names begin with the model's."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}


def tokenizer_weights(weights: StateDict) -> StateDict:
    """All but two constants of the quantizer, which must be what they are computed as here."""
    weights = dict(weights)
    powers = weights.pop("quantize.power_vals", None)
    vectors = weights.pop("quantize.embedding", None)
    if powers is not None and not torch.equal(powers.long(), highest_first(powers.numel())):
        raise other_bits("quantize.power_vals")
    if vectors is not None:
        signs = signs_of(torch.arange(len(vectors)), vectors.shape[-1])
        if not torch.equal(vectors.float(), signs.float()):
            raise other_bits("quantize.embedding")
    return weights


def highest_first(bits: int) -> torch.Tensor:
    """What each bit of a code counts."""
    return 2 ** torch.arange(bits - 1, -1, -1)


def other_bits(name: str) -> MissingError:
    """The refusal of a tokenizer whose codes mean something else."""
    return MissingError(
        f"`{name}` of `{TOKENIZER}` is not that of signs with the highest bit first.",
        "dimo reads the image tokenizer of Show-o only.",
    )


def published_sizes(facts: Variant, read_config: ReadConfig | None) -> dict[str, Any]:
    """What is known of a variant, and what the config files say if they can be read."""
    sizes: dict[str, Any] = {"num_vq_tokens": facts.side**2}
    if read_config is None:
        return sizes
    phi = read_config(PHI)
    sizes |= {name: phi[name] for name in OF_PHI if name in phi}
    return sizes | settings_of(read_config(facts.config), str(facts.config))


def with_whole_tokenizer(architecture: Settings) -> dict[str, Any]:
    """A user's settings, in which the image tokenizer may be described in part."""
    settings = dict(architecture)
    given = settings.get("magvitv2")
    if isinstance(given, Mapping):
        known = Architecture.model_fields["magvitv2"].default.model_dump()
        settings["magvitv2"] = {**known, **given}
    return settings


def token_space(arch: Architecture) -> TokenSpace:
    """A square grid of codes; the mask has no logit among those of an image."""
    return TokenSpace(
        length=arch.num_vq_tokens,
        groups=1,
        vocab=arch.codebook_size,
        codes=arch.codebook_size,
        mask_id=arch.codebook_size,
        image_size=arch.image_size,
        grid=(arch.side, arch.side),
    )


def blueprint(
    variant: str, architecture: Settings, read_config: ReadConfig | None = None
) -> Blueprint:
    """All there is to know of a published variant."""
    facts = VARIANTS[variant]
    published = published_sizes(facts, read_config)
    arch = read_architecture(Architecture, published, with_whole_tokenizer(architecture))
    pixels = 16 * facts.side
    return Blueprint(
        name=variant,
        family="showo",
        license=facts.license,
        summary=f"prompts to {pixels}x{pixels}, 1.4B parameters",
        space=token_space(arch),
        # The authors' guidance g is 1 + g in the standard form.
        sampler=SamplerDefaults(facts.steps, 1 + facts.weight, showo_plan, 1.0, schedule="cosine"),
        build_backbone=partial(ShowoBackbone, arch),
        build_tokenizer=partial(MagvitTokenizer, arch),
        build_conditioner=partial(build_conditioner, arch),
        backbone=Published(
            (HubFile(facts.repo, WEIGHTS, size=facts.size),), convert=transformer_weights
        ),
        tokenizer=Published((TOKENIZER,), convert=tokenizer_weights),
        other_files=(facts.config, PHI, WORDS),
        architecture=arch.model_dump(),
        takes_prompts=True,
    )
