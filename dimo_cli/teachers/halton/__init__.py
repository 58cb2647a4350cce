"""Halton-MaskGIT (Besnier et al., 2025): ImageNet at 256 and 384 pixels, tokens in Halton's order.

The second version of MaskGit in PyTorch: another transformer, over the codes of LlamaGen's
tokenizer. Its repository holds no config files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch

from dimo_cli.errors import MissingError
from dimo_cli.hub.published import HubFile, Published, StateDict
from dimo_cli.teachers.blueprint import Blueprint, ReadConfig, Settings, read_architecture
from dimo_cli.teachers.conditioning import ClassConditioner
from dimo_cli.teachers.halton.architecture import Architecture
from dimo_cli.teachers.halton.sampler import halton_plan
from dimo_cli.teachers.halton.tokenizer import LlamaGenTokenizer
from dimo_cli.teachers.halton.transformer import HaltonTransformer
from dimo_cli.teachers.imagenet import class_ids, class_names
from dimo_cli.teachers.protocol import SamplerDefaults, TokenSpace

REPO = "llvictorll/Halton-MaskGIT"
TOKENIZER = HubFile(
    "FoundationVision/LlamaGen",
    "vq_ds16_c2i.pt",
    sha256="109aa8afb2cf3761eec23cdc8644154cb498f5ab7eef2a35264d25e5e0499f7d",
)
STEPS = 32
ADAM_COPIES = 3  # weights and both moments


def sizes(width: int, depth: int, heads: int) -> dict[str, int]:
    """The settings of a transformer whose MLPs are four times as wide, before a third is cut."""
    return {"hidden_dim": width, "depth": depth, "heads": heads, "mlp_dim": 4 * width}


TINY, SMALL, BASE, LARGE = (
    sizes(384, 6, 6),
    sizes(512, 12, 6),
    sizes(768, 12, 12),
    sizes(1024, 24, 16),
)


@dataclass(frozen=True, slots=True)
class Variant:
    """One published transformer; `weight` is w of z_c + w (z_c - z_u), as the authors write it."""

    size: str
    pixels: int
    transformer: Mapping[str, int]
    parameters: str
    weight: float
    sha256: str | None = None
    copies: int = ADAM_COPIES

    @property
    def file(self) -> HubFile:
        """Its weights. Their exact sizes are not known."""
        return HubFile(REPO, f"ImageNet_{self.pixels}_{self.size}.pth", sha256=self.sha256)


VARIANTS: dict[str, Variant] = {
    "halton-tiny": Variant("tiny", 256, TINY, "23M", 1.5),
    "halton-small": Variant(
        "small",
        256,
        SMALL,
        "69M",
        1.0,
        "760b9937d16157e7e518fbf405efe281552933242b552d5e8262cb10507fb0e2",
    ),
    "halton-base": Variant(
        "base",
        256,
        BASE,
        "142M",
        0.7,
        "7fe25cb80b05743e8b42dacc61d88792a9ab5217d6bd756bef28821e0a5fc68f",
    ),
    "halton-small-384": Variant(
        "small",
        384,
        SMALL,
        "70M",
        1.0,
        "76bad1f175083210e27f794674b27efd54266b5b90471a383322c8840749ae5d",
    ),
    "halton-base-384": Variant(
        "base",
        384,
        BASE,
        "142M",
        0.7,
        "3e707c8fcf75ddf73d812de04d2561d3ff69f52f21c08e079e0fa4d0b596fcd6",
    ),
    "halton-large-384": Variant("large", 384, LARGE, "480M", 0.5, copies=1),
}


def transformer_weights(weights: StateDict) -> StateDict:
    """The token table is the head's matrix too: files list it once, or twice under both names.

    `head` is a method here, so its bias has another name. Wrappers may stand anywhere in a name.
    """
    weights = {
        name.replace("module.", "").replace("_orig_mod.", ""): tensor
        for name, tensor in weights.items()
    }
    twin = weights.pop("head.weight", None)
    if twin is not None and not torch.equal(twin, weights.get("tok_emb.weight", twin)):
        raise MissingError(
            "`head.weight` and `tok_emb.weight` differ, and Halton-MaskGIT has one for both.",
            "dimo cannot load a transformer that was trained with the two untied.",
        )
    return {"bias" if name == "head.bias" else name: tensor for name, tensor in weights.items()}


def tokenizer_weights(weights: StateDict) -> StateDict:
    """All but which codes were lately used in training, which files have as a buffer."""
    return {name: tensor for name, tensor in weights.items() if name != "quantize.codebook_used"}


def token_space(arch: Architecture) -> TokenSpace:
    """A square grid of codes; the mask id has a logit and can be drawn."""
    return TokenSpace(
        length=arch.length,
        groups=1,
        vocab=arch.codebook_size + 1,
        codes=arch.codebook_size,
        mask_id=arch.codebook_size,
        image_size=arch.image_size,
        grid=(arch.input_size, arch.input_size),
    )


def blueprint(
    variant: str, architecture: Settings, read_config: ReadConfig | None = None
) -> Blueprint:
    """All there is to know of a published variant."""
    facts = VARIANTS[variant]
    published = {"input_size": facts.pixels // 16, **facts.transformer}
    arch = read_architecture(Architecture, published, architecture)
    is_imagenet = arch.nclass == 1000
    return Blueprint(
        name=variant,
        family="halton",
        license="MIT",
        summary=f"ImageNet {facts.pixels}x{facts.pixels}, {facts.parameters} parameters",
        space=token_space(arch),
        # As the authors measured the largest; that they did so with the others is inferred.
        sampler=SamplerDefaults(steps=STEPS, guidance=1 + facts.weight, plan=halton_plan(warmup=1)),
        build_backbone=partial(HaltonTransformer, arch),
        build_tokenizer=partial(LlamaGenTokenizer, arch),
        build_conditioner=lambda store: ClassConditioner(arch.nclass),
        backbone=Published(
            (facts.file,),
            inside="model_state_dict",
            convert=transformer_weights,
            copies=facts.copies,
        ),
        tokenizer=Published((TOKENIZER,), inside="model", convert=tokenizer_weights),
        architecture=arch.model_dump(),
        class_names=class_names() if is_imagenet else (),
        class_ids=class_ids() if is_imagenet else (),
    )
