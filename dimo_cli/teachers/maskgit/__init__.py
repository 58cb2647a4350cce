"""MaskGit in PyTorch (Besnier and Chen, 2023), the first teacher of Di[M]O: ImageNet, 256 and 512.

A masked transformer over the codes of a VQGAN, conditioned on a class token. The papers' students
hold the same keys as the transformer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dimo_cli.errors import MissingError
from dimo_cli.hub.published import HubFile, Published, StateDict
from dimo_cli.teachers import imagenet
from dimo_cli.teachers.blueprint import Blueprint, ReadConfig, Settings, read_architecture
from dimo_cli.teachers.conditioning import ClassConditioner
from dimo_cli.teachers.maskgit.architecture import MaskGitArchitecture
from dimo_cli.teachers.maskgit.transformer import MaskGitTransformer
from dimo_cli.teachers.maskgit.vqgan import VQGAN
from dimo_cli.teachers.plans import progress, tokens_per_step
from dimo_cli.teachers.protocol import SamplerDefaults, Step, TokenSpace

REPO = "llvictorll/Maskgit-pytorch"
VQGAN_WEIGHTS = HubFile(
    REPO,
    "pretrained_maskgit/VQGAN/last.ckpt",
    size=957_954_257,
    sha256="e38a3aed8c86e8d47436f611325b3a23888cab70a0cc56c13cd84e8d4aab6e71",
)
VQGAN_CONFIG = HubFile(REPO, "pretrained_maskgit/VQGAN/model.yaml", size=645)

ARCHITECTURE: Mapping[str, Any] = {
    "codebook_size": 1024,
    "nclass": 1000,
    "hidden_dim": 768,
    "depth": 24,
    "heads": 16,
    "mlp_dim": 3072,
    "dropout": 0.1,
    "embed_dim": 256,
    "z_channels": 256,
    "ch": 128,
    "ch_mult": (1, 1, 2, 2, 4),
    "num_res_blocks": 2,
    "attn_resolutions": (16,),
    "resolution": 256,
}


def published_plan(
    steps: int, slots: int, guidance: float, choice_noise: float, schedule: str = "arccos"
) -> list[Step]:
    """The released sampler: guidance grows from 1 while the noise on the confidence fades."""
    plan, masked = [], slots
    for index, count in enumerate(tokens_per_step(schedule, steps, slots)):
        masked -= count
        done = progress(index, steps)
        plan.append(
            Step(masked, guidance=1 + (guidance - 1) * done, choice_noise=choice_noise * (1 - done))
        )
    return plan


@dataclass(frozen=True, slots=True)
class Variant:
    """What differs between the two sizes."""

    grid: int
    weights: HubFile
    sampler: SamplerDefaults
    summary: str


VARIANTS: dict[str, Variant] = {
    "maskgit": Variant(
        grid=16,
        weights=HubFile(
            REPO,
            "pretrained_maskgit/MaskGIT/MaskGIT_ImageNet_256.pth",
            size=2_090_306_069,
            sha256="74b38fa16c92da3db79f9aac3c9d0d2ef5cb6ea283c48908213f10d786304462",
        ),
        # The release writes guidance as w = s - 1.
        sampler=SamplerDefaults(steps=8, guidance=4.0, plan=published_plan, choice_noise=4.5),
        summary="ImageNet 256x256, 174M parameters",
    ),
    "maskgit-512": Variant(
        grid=32,
        weights=HubFile(
            REPO,
            "pretrained_maskgit/MaskGIT/MaskGIT_ImageNet_512.pth",
            size=2_116_055_573,
            sha256="fa1e1286451602c30d1608485797f63f27c8cc9688346fa0f1315952b46b3c03",
        ),
        sampler=SamplerDefaults(steps=15, guidance=3.8, plan=published_plan, choice_noise=7.0),
        summary="ImageNet 512x512, 176M parameters",
    ),
}


def vqgan_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the VQGAN that its configuration file holds.

    Its loss and its dropout were for training; the weights themselves tell of anything else.
    """
    names = ("ch", "ch_mult", "num_res_blocks", "attn_resolutions", "resolution", "z_channels")
    try:
        params = config["model"]["params"]
        return {
            "codebook_size": params["n_embed"],
            "embed_dim": params["embed_dim"],
            **{name: params["ddconfig"][name] for name in names},
        }
    except (KeyError, TypeError) as error:
        raise MissingError(f"`{VQGAN_CONFIG}` is no VQGAN configuration: no {error}.") from None


def without_training_losses(weights: StateDict) -> StateDict:
    """The VQGAN without `loss.*`: perceptual network and discriminator, which only trained it."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith("loss.")}


def blueprint(
    variant: str, architecture: Settings, read_config: ReadConfig | None = None
) -> Blueprint:
    """All there is to know of a MaskGit teacher before a weight is read."""
    facts = VARIANTS[variant]
    from_repo = vqgan_settings(read_config(VQGAN_CONFIG)) if read_config else {}
    published = {**ARCHITECTURE, "grid": facts.grid, **from_repo}
    settings = read_architecture(MaskGitArchitecture, published, architecture)
    is_imagenet = settings.nclass == 1000
    return Blueprint(
        name=variant,
        family="maskgit",
        license="MIT",
        summary=facts.summary,
        space=TokenSpace(
            length=settings.length,
            groups=1,
            vocab=settings.codebook_size + 1,  # the mask id has a logit and can be drawn
            codes=settings.codebook_size,
            mask_id=settings.mask_id,
            image_size=settings.image_size,
            grid=(settings.grid, settings.grid),
            class_ids=settings.class_ids,
        ),
        sampler=facts.sampler,
        build_backbone=lambda: MaskGitTransformer(settings),
        build_tokenizer=lambda: VQGAN(settings),
        build_conditioner=lambda store: ClassConditioner(settings.nclass),
        backbone=Published((facts.weights,), inside="model_state_dict"),
        tokenizer=Published((VQGAN_WEIGHTS,), inside="state_dict", convert=without_training_losses),
        other_files=(VQGAN_CONFIG,),
        architecture=settings.model_dump(),
        class_names=imagenet.class_names() if is_imagenet else (),
        class_ids=imagenet.class_ids() if is_imagenet else (),
    )
