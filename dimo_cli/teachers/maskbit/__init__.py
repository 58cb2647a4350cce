"""MaskBit (Weber et al., 2024): ImageNet 256x256 in tokens of 10 to 18 bits, without a codebook.

A token's bits are split into groups, and each group is masked, predicted and revealed on its own.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import partial

import torch

from dimo_cli.hub.published import HubFile, Published, StateDict
from dimo_cli.teachers.blueprint import Blueprint, ReadConfig, Settings, read_architecture
from dimo_cli.teachers.conditioning import ClassConditioner
from dimo_cli.teachers.imagenet import class_ids, class_names
from dimo_cli.teachers.maskbit.architecture import Architecture
from dimo_cli.teachers.maskbit.generator import MaskBitGenerator
from dimo_cli.teachers.maskbit.tokenizer import MaskBitTokenizer
from dimo_cli.teachers.plans import SCHEDULES, masked_counts
from dimo_cli.teachers.protocol import Plan, SamplerDefaults, Step, TokenSpace

STEPS = 64


@dataclass(frozen=True, slots=True)
class Variant:
    """One published pair of networks, and the settings of its published sampler."""

    bits: int
    guidance: float
    """s of z_c + s (z_c - z_u), as the authors write it."""
    choice_noise: float
    guidance_power: float
    tokenizer_sha256: str | None = None
    tokenizer_bytes: int | None = None


# The 14-bit model is also published with 128 steps (guidance 7.1, noise 9.0) and with 256 steps
# (guidance 5.8, noise 10.3); the weights are the same.
VARIANTS: dict[str, Variant] = {
    "maskbit": Variant(
        14, 7.1, 7.8, 3.0, "ca9209fbd55ec467c7151b1f863b99ba2675a5229f6f86f27cfe79152671f310"
    ),
    "maskbit-10bit": Variant(10, 6.4, 10.5, 2.5),
    "maskbit-12bit": Variant(
        12, 7.1, 8.2, 3.0, "3dde024443d68a10295a518d9e851f61e0527c85f1197aa41405237153182170"
    ),
    "maskbit-16bit": Variant(
        16,
        6.5,
        7.5,
        2.5,
        "44e3ff7c3bf15eda4e1e25586ff8f657be9291d5e2bf3b755505394e11765b06",
        222_258_958,
    ),
    "maskbit-18bit": Variant(
        18,
        5.7,
        8.5,
        2.5,
        "6c672c2508e14c4d7cd8621c1cb8939610478632725bb26521cf3c4bb6fc3f78",
        236_979_982,
    ),
}


def growing_guidance_plan(power: float) -> Plan:
    """The plan of the published sampler: arccos counts, and guidance that grows from none.

    Step i of N is guided by s - 1 = (s_max - 1) (1 - cos(pi (i / N)^power)) / 2, so the largest
    value is never quite reached. Noise on the choice fades to nothing in the last step.
    """
    return partial(_growing_guidance_steps, power)


def _growing_guidance_steps(
    power: float, steps: int, slots: int, guidance: float, choice_noise: float
) -> list[Step]:
    # In float32: a count floors a product that is a whole number at some steps.
    start, end = torch.arange(steps) / steps, torch.arange(1, steps + 1) / steps
    ramp = (1 - torch.cos(math.pi * start**power)) / 2
    return [
        Step(masked_after, 1 + (guidance - 1) * share, choice_noise=choice_noise * left)
        for masked_after, share, left in zip(
            masked_counts(SCHEDULES["arccos"](end), slots),
            ramp.tolist(),
            (1 - end).tolist(),
            strict=True,
        )
    ]


def convert_generator(weights: StateDict) -> StateDict:
    """Older files call the input projection `token_emb`; both names in one file are refused."""
    if "input_proj.weight" in weights:
        return weights  # a `token_emb` beside it stays, and is then an unknown key
    return {
        re.sub(r"^token_emb\.", "input_proj.", name): tensor for name, tensor in weights.items()
    }


def token_space(arch: Architecture) -> TokenSpace:
    """Groups of bits over a square grid; the mask id is one past the last code of a group."""
    return TokenSpace(
        length=arch.side**2,
        groups=arch.codebook_splits,
        vocab=arch.group_codes,
        codes=arch.group_codes,
        mask_id=arch.group_codes,
        image_size=arch.img_size,
        grid=(arch.side, arch.side),
    )


def blueprint(
    variant: str, architecture: Settings, read_config: ReadConfig | None = None
) -> Blueprint:
    """The blueprint of a published variant. Its repositories hold no config file to read."""
    facts = VARIANTS[variant]
    arch = read_architecture(Architecture, {"bits": facts.bits}, architecture)
    names = {part: f"maskbit_{part}_{facts.bits}bit" for part in ("generator", "tokenizer")}
    repos = {part: f"markweber/{name}" for part, name in names.items()}
    generator_file = HubFile(repos["generator"], f"{names['generator']}.bin")
    tokenizer_file = HubFile(
        repos["tokenizer"],
        f"{names['tokenizer']}.bin",
        size=facts.tokenizer_bytes,
        sha256=facts.tokenizer_sha256,
    )
    has_imagenet_classes = arch.nclass == 1000
    return Blueprint(
        name=variant,
        family="maskbit",
        license="Apache-2.0",
        summary=f"ImageNet 256x256, {facts.bits}-bit tokens in 2 groups, 305M parameters",
        space=token_space(arch),
        sampler=SamplerDefaults(
            steps=STEPS,
            guidance=1 + facts.guidance,
            plan=growing_guidance_plan(facts.guidance_power),
            choice_noise=facts.choice_noise,
        ),
        build_backbone=partial(MaskBitGenerator, arch),
        build_tokenizer=partial(MaskBitTokenizer, arch),
        build_conditioner=lambda store: ClassConditioner(arch.nclass),
        backbone=Published((generator_file,), convert=convert_generator),
        tokenizer=Published((tokenizer_file,)),
        architecture=arch.model_dump(),
        class_names=class_names() if has_imagenet_classes else (),
        class_ids=class_ids() if has_imagenet_classes else (),
    )
