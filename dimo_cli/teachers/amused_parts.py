"""What Meissonic took over from aMUSEd: how tokens are embedded and predicted, how text and
micro-conditions come in, and the published sampler. The two families differ in what is between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar, cast

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from diffusers.models.unets.uvit_2d import ConvMlmLayer, UVit2DConvEmbed
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from dimo_cli.hub.published import HubFile, Published, Store
from dimo_cli.specs.base import Int, Spec
from dimo_cli.teachers import vq_model
from dimo_cli.teachers.blueprint import Blueprint, ReadConfig, read_architecture
from dimo_cli.teachers.conditioning import PromptConditioner, TextEncoder
from dimo_cli.teachers.hub_text import TEXT_LENGTH, load_text_encoder, text_files, text_weights
from dimo_cli.teachers.plans import SCHEDULES, masked_counts
from dimo_cli.teachers.protocol import (
    Backbone,
    Cond,
    Conditioner,
    LastLinear,
    Plan,
    SamplerDefaults,
    Step,
    TokenSpace,
)
from dimo_cli.teachers.vq_model import VQArchitecture, VQTokenizer

AESTHETIC_SCORE = 6.0
CHOICE_NOISE = 2.0


class SharedArchitecture(Spec):
    """The settings that both families have, under the names of their config files."""

    vocab_size: Int = Field(gt=0, description="Rows of the embedding table; the last is the mask")
    codebook_size: Int = Field(gt=0, description="Image codes, which are also the logits")
    downsample: bool = Field(description="Halve the grid in front of the transformer")
    upsample: bool = Field(description="Double the grid behind it")
    vqvae: VQArchitecture = Field(description="Settings of the image tokenizer")
    image_size: Int = Field(gt=0, description="Side of the image in pixels")

    @field_validator("codebook_size")
    @classmethod
    def _leaves_room_for_the_mask(cls, codes: int, info: ValidationInfo) -> int:
        if codes >= info.data.get("vocab_size", codes + 1):
            raise ValueError("must be below `vocab_size`, whose last row is the mask")
        return codes

    @field_validator("upsample")
    @classmethod
    def _undoes_downsample(cls, upsample: bool, info: ValidationInfo) -> bool:
        if upsample != info.data.get("downsample", upsample):
            raise ValueError("must be as `downsample`, so that a token comes out for each")
        return upsample

    @field_validator("vqvae")
    @classmethod
    def _has_the_same_codes(cls, vqvae: VQArchitecture, info: ValidationInfo) -> VQArchitecture:
        codes = info.data.get("codebook_size", vqvae.num_vq_embeddings)
        if vqvae.num_vq_embeddings != codes:
            raise ValueError(f"must have `num_vq_embeddings` as `codebook_size` ({codes})")
        return vqvae

    @field_validator("image_size")
    @classmethod
    def _is_whole_tokens(cls, size: int, info: ValidationInfo) -> int:
        if "vqvae" not in info.data:
            return size
        unit = info.data["vqvae"].factor * (2 if info.data.get("downsample") else 1)
        if size % unit:
            raise ValueError(f"must be a multiple of {unit}")
        return size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        side = self.image_size // self.vqvae.factor
        return side, side


A = TypeVar("A", bound=SharedArchitecture)


def pointwise(convolution: nn.Conv2d, rows: Tensor) -> Tensor:
    """A 1x1 convolution of rows [..., D]: the same numbers, as one matrix product."""
    return F.linear(rows, convolution.weight.flatten(1), convolution.bias)


class TokenEmbedding(UVit2DConvEmbed):
    """Table, RMSNorm and 1x1 convolution: tokens [B, L, 1] to [B, L, D]."""

    def forward(self, tokens: Tensor) -> Tensor:
        """The embedding of plain tokens."""
        return self.refine(self.embeddings(tokens.squeeze(-1)))

    def mix(self, probs: Tensor, mask: Tensor | None) -> Tensor:
        """The embedding of probabilities [B, L, 1, V], mixed before they are normalized."""
        table = self.embeddings.weight
        rows = probs.squeeze(-2) @ table[: probs.shape[-1]].to(probs.dtype)
        if mask is not None:
            rows = torch.where(mask, table[-1].to(rows.dtype), rows)
        return self.refine(rows.to(table.dtype))

    def refine(self, rows: Tensor) -> Tensor:
        """What follows the table."""
        return pointwise(self.conv, self.layer_norm(rows))


class TokenHead(ConvMlmLayer):
    """1x1 convolution, RMSNorm, 1x1 convolution: hidden states [..., D] to logits [..., 1, V]."""

    def forward(self, hidden: Tensor) -> Tensor:
        """The logits of any rows: no position looks at another."""
        return pointwise(self.conv2, self.features(hidden))[..., None, :]

    def features(self, hidden: Tensor) -> Tensor:
        """What the second convolution sees."""
        return self.layer_norm(pointwise(self.conv1, hidden))

    def last_linear(self, hidden: Tensor) -> LastLinear:
        """The second convolution as the linear map that it is."""
        return LastLinear(self.features(hidden), self.conv2.weight.flatten(1), self.conv2.bias)


class AmusedStyleBackbone(Backbone):
    """Token embedding, head and condition vector, under their published names.

    The published name of the token embedding is `embed`, which is what the protocol calls embedding
    tokens: the module is the method. Embedding noise is added to its output.
    """

    mlm_layer: TokenHead
    cond_embed: TimestepEmbedding
    micro_width: int
    """Sinusoids of one micro-condition."""

    @property
    def embed(self) -> TokenEmbedding:
        """The token embedding."""
        return cast(TokenEmbedding, super().__getattr__("embed"))

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are stored in."""
        return self.embed.embeddings.weight.dtype

    def embed_probs(self, probs: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.embed.mix(probs, mask)

    def head(self, hidden: Tensor, positions: Tensor | None = None) -> Tensor:
        return self.mlm_layer(hidden)

    def last_linear(self, hidden: Tensor) -> LastLinear:
        return self.mlm_layer.last_linear(hidden)

    def embedding_parameters(self) -> list[nn.Parameter]:
        """Token embedding and head: the official recipe freezes both."""
        return [*self.embed.parameters(), *self.mlm_layer.parameters()]

    def control(self, cond: Cond) -> Tensor:
        """The vector [B, D] made of the pooled text and the micro-conditions, which modulates all.

        Sinusoids are computed in float32 whatever the weights are: pixel counts need it.
        """
        micro = cond.tensors["micro"]
        sinusoids = get_timestep_embedding(
            micro.flatten(), self.micro_width, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        features = torch.cat([cond.tensors["pooled"], sinusoids.view(micro.shape[0], -1)], dim=1)
        return self.cond_embed(features.to(self.dtype))


Told = Literal["index", "share"]
"""What a network with a time input is told: the number of steps that are left after this one, or
their share of all."""


def amused_plan(told: Told | None) -> Plan:
    """The plan of aMUSEd's scheduler: cosine counts, and noise on the choice that fades to none."""
    return partial(_amused_steps, told)


def _amused_steps(
    told: Told | None, steps: int, slots: int, guidance: float, choice_noise: float
) -> list[Step]:
    # In float32, as the scheduler: a count floors a product that is a whole number at some steps.
    counts = masked_counts(SCHEDULES["cosine"](torch.arange(1, steps + 1) / steps), slots)
    noises = torch.linspace(choice_noise, 0, steps).tolist()
    return [
        Step(count, guidance, choice_noise=noise, time=time_to_tell(told, left, steps))
        for count, noise, left in zip(counts, noises, reversed(range(steps)), strict=True)
    ]


def time_to_tell(told: Told | None, left: int, steps: int) -> float | None:
    """The time that a network is told when so many steps are left after this one."""
    if told is None:
        return None
    return left / steps if told == "share" else float(left)


@dataclass(frozen=True, slots=True)
class Variant:
    """One published repository, and what is known of it before its config files are read."""

    repo: str
    license: str
    summary: str
    image_size: int
    resamples: bool
    """Whether the transformer sees a grid of half the size."""
    steps: int
    folder: str = "transformer"
    """Where the transformer is."""
    tokenizers_repo: str | None = None
    """Where image tokenizer and text encoder are, if in another repository."""

    @property
    def others(self) -> str:
        """The repository of everything but the transformer."""
        return self.tokenizers_repo or self.repo


def read_networks(
    model: type[A],
    facts: Variant,
    published: Mapping[str, Any],
    unused: tuple[str, ...],
    architecture: Mapping[str, Any],
    read_config: ReadConfig | None,
) -> A:
    """The architecture of both networks: published facts, then config files, then the user's.

    `unused` names the entries of the transformer's config file that change nothing.
    """
    transformer_file, vqvae_file = config_files(facts)
    vqvae = dict(vq_model.PUBLISHED)
    resamples = {"downsample": facts.resamples, "upsample": facts.resamples}
    transformer = {**published, **resamples, "image_size": facts.image_size}
    if read_config is not None:
        transformer |= settings(read_config(transformer_file), unused)
        vqvae |= settings(read_config(vqvae_file), vq_model.UNUSED_SETTINGS)
    overrides = dict(architecture)
    if isinstance(overrides.get("vqvae"), Mapping):
        overrides["vqvae"] = {**vqvae, **overrides["vqvae"]}
    return read_architecture(model, {**transformer, "vqvae": vqvae}, overrides)


def settings(config: Mapping[str, Any], unused: tuple[str, ...]) -> dict[str, Any]:
    """The entries of a config file that are settings: not diffusers' notes, not the unused."""
    return {k: v for k, v in config.items() if not k.startswith("_") and k not in unused}


def config_files(facts: Variant) -> tuple[HubFile, HubFile]:
    """The config files of the transformer and of the image tokenizer."""
    return (
        HubFile(facts.repo, f"{facts.folder}/config.json"),
        HubFile(facts.others, "vqvae/config.json"),
    )


def network_files(repo: str, network: str) -> Published:
    """The weights of a network, whose published names are ours; in half size if need be."""
    names = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
    return Published(tuple(HubFile(repo, f"{network}/{name}") for name in names))


def build_blueprint(
    name: str,
    family: str,
    facts: Variant,
    arch: SharedArchitecture,
    *,
    build_backbone: Callable[[], Backbone],
    text_widths: tuple[int, int],
    guidance: float,
    told: Told | None,
    negative_prompt: str,
) -> Blueprint:
    """The blueprint of a variant; `text_widths` are of the text states and the pooled text."""
    size, (states, pooled) = float(arch.image_size), text_widths
    shapes: dict[str, tuple[int, ...]] = {"text": (TEXT_LENGTH, states), "pooled": (pooled,)}

    def build_conditioner(store: Store | None) -> Conditioner:
        def load_encoder() -> TextEncoder:
            assert store is not None, "a blank conditioner encodes no prompts"
            return load_text_encoder(facts.others, store)

        weights = text_weights(facts.others)
        known = f"{store.revision_of(weights)} from {store.origin()}" if store else "nowhere"
        return PromptConditioner(
            shapes,
            load_encoder,
            key=f"{facts.others}/text_encoder@{known}",
            cache=store.prompt_cache() if store else None,
            # Original width and height, crop from the left and the top, aesthetic score.
            constants={"micro": torch.tensor([size, size, 0.0, 0.0, AESTHETIC_SCORE])},
            negative_prompt=negative_prompt,
        )

    return Blueprint(
        name=name,
        family=family,
        license=facts.license,
        summary=facts.summary,
        space=TokenSpace(
            length=arch.grid[0] * arch.grid[1],
            groups=1,
            vocab=arch.codebook_size,
            codes=arch.codebook_size,
            mask_id=arch.vocab_size - 1,
            image_size=arch.image_size,
            grid=arch.grid,
        ),
        sampler=SamplerDefaults(
            facts.steps, guidance, amused_plan(told), CHOICE_NOISE, schedule="cosine"
        ),
        build_backbone=build_backbone,
        build_tokenizer=partial(VQTokenizer, arch.vqvae, arch.grid),
        build_conditioner=build_conditioner,
        backbone=network_files(facts.repo, facts.folder),
        tokenizer=network_files(facts.others, "vqvae"),
        other_files=(*config_files(facts), *text_files(facts.others)),
        architecture=arch.model_dump(),
        takes_prompts=True,
    )
