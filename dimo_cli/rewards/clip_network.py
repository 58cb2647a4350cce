"""CLIP for rewards: one network for all of them, whichever library its weights were saved by."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.hub.loading import described_by, on_meta
from dimo_cli.hub.published import StateDict, Store
from dimo_cli.rewards.networks import VisionSizes, VisionTransformer
from dimo_cli.rewards.protocol import RewardCard
from dimo_cli.specs.base import Int, Real, Spec
from dimo_cli.teachers.clip_text import build_clip_text, clip_text_weights, features

N = TypeVar("N", bound=nn.Module)

# Parts of image towers' names, and what they are called here.
FROM_OPEN_CLIP = {
    "visual.transformer.resblocks.": "image.blocks.",
    "visual.class_embedding": "image.cls_token",
    "visual.positional_embedding": "image.pos_embed",
    "visual.conv1.": "image.patch_embed.proj.",
    "visual.ln_pre.": "image.norm_pre.",
    "visual.ln_post.": "image.norm.",
    "visual.proj": "image.head.weight",
    ".attn.in_proj_": ".attn.qkv.",
    ".attn.out_proj.": ".attn.proj.",
    ".ln_1.": ".norm1.",
    ".ln_2.": ".norm2.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}
FROM_TRANSFORMERS = {
    "vision_model.encoder.layers.": "image.blocks.",
    "vision_model.embeddings.class_embedding": "image.cls_token",
    "vision_model.embeddings.position_embedding.weight": "image.pos_embed",
    "vision_model.embeddings.patch_embedding.": "image.patch_embed.proj.",
    "vision_model.pre_layrnorm.": "image.norm_pre.",  # the library's own spelling
    "vision_model.post_layernorm.": "image.norm.",
    "visual_projection.": "image.head.",
    ".self_attn.out_proj.": ".attn.proj.",
    ".layer_norm1.": ".norm1.",
    ".layer_norm2.": ".norm2.",
}
IMAGE_PREFIXES = ("visual.", "vision_model.", "visual_projection.")
# Constant position numbers, which old versions of transformers saved with the weights.
POSITIONS = "vision_model.embeddings.position_ids"


class TextSizes(Spec):
    """The text tower, in the words of transformers' configs; defaults are those of H-14."""

    vocab_size: Int = 49408
    max_position_embeddings: Int = 77
    hidden_size: Int = 1024
    intermediate_size: Int = 4096
    num_hidden_layers: Int = 24
    num_attention_heads: Int = 16
    hidden_act: Literal["gelu", "quick_gelu"] = "gelu"
    layer_norm_eps: Real = 1e-5
    eos_token_id: Int = 49407


class ClipSizes(Spec):
    """Both towers; defaults are those of H-14."""

    projection_dim: Int = 1024
    text_config: TextSizes = TextSizes()
    vision_config: VisionSizes = VisionSizes()


def clip_sizes(config: Mapping[str, Any]) -> ClipSizes:
    """What matters of a complete config of transformers."""
    towers: tuple[tuple[str, type[Spec]], ...] = (
        ("text_config", TextSizes),
        ("vision_config", VisionSizes),
    )
    parts = {
        name: {key: config[name][key] for key in sizes.model_fields if key in config[name]}
        for name, sizes in towers
    }
    return ClipSizes.model_validate({"projection_dim": config["projection_dim"], **parts})


def published_sizes(config: Mapping[str, Any]) -> ClipSizes:
    """What a repository's config.json says, which leaves out what the library has as default."""
    from transformers import CLIPConfig

    return clip_sizes(CLIPConfig.from_dict(dict(config)).to_dict())


def built(
    card: RewardCard, store: Store, sizes: ClipSizes | None, network: Callable[[ClipSizes], N]
) -> tuple[ClipSizes, N]:
    """The network of a reward, still without weights, and its sizes.

    Those are the given ones, else those of its config file, or of H-14 without one.
    """
    if sizes is None and not card.other_files:
        sizes = ClipSizes()
    if sizes is not None:
        return sizes, on_meta(lambda: network(sizes))
    with described_by(card.other_files[0]):
        found = published_sizes(store.config(card.other_files[0]))
        return found, on_meta(lambda: network(found))


class ClipImageTower(VisionTransformer):
    """Images to their embeddings in the space they share with text."""

    def __init__(self, sizes: VisionSizes, projection_dim: int) -> None:
        super().__init__(sizes, is_clip=True)
        self.head = nn.Linear(sizes.hidden_size, projection_dim, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalized images [B, 3, S, S] to [B, P], of any length."""
        return self.head(super().forward(pixels)[:, 0])


class ClipNetwork(nn.Module):
    """The image tower, the text tower, and the logarithm of the scale between them."""

    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        text = {**sizes.text_config.model_dump(), "projection_dim": sizes.projection_dim}
        self.image = ClipImageTower(sizes.vision_config, sizes.projection_dim)
        self.text = build_clip_text(text)
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def embed_images(self, pixels: Tensor) -> Tensor:
        """Embeddings [B, P] of length one."""
        return F.normalize(self.image(pixels).float(), dim=-1)

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        """Embeddings [B, P] of length one."""
        return F.normalize(features(self.text, token_ids)["pooled"].float(), dim=-1)


def clip_weights(weights: StateDict) -> StateDict:
    """A whole published CLIP under our names."""
    text = {f"text.{name}": tensor for name, tensor in clip_text_weights(weights).items()}
    scale = {name: tensor for name, tensor in weights.items() if name == "logit_scale"}
    return {**image_weights(weights), **text, **scale}


def image_weights(weights: StateDict) -> StateDict:
    """The image half of a published CLIP under our names; unknown names in it stay."""
    image = {name: t for name, t in weights.items() if name.startswith(IMAGE_PREFIXES)}
    image.pop(POSITIONS, None)
    if "visual.proj" in image:  # a matrix that is multiplied from the right
        image["visual.proj"] = image["visual.proj"].T
    renames = FROM_OPEN_CLIP | FROM_TRANSFORMERS
    converted = {renamed(name, renames): tensor for name, tensor in image.items()}
    for name in ("image.cls_token", "image.pos_embed"):  # [D] and [T, D] in files, [1, T, D] here
        if name in converted:
            converted[name] = converted[name].reshape(1, -1, converted[name].shape[-1])
    return join_attention(converted)


def renamed(name: str, renames: Mapping[str, str]) -> str:
    """A name with all parts replaced that have another name here."""
    for old, new in renames.items():
        name = name.replace(old, new)
    return name


def join_attention(weights: StateDict) -> StateDict:
    """Queries, keys and values as the one projection that they are here."""
    joined = dict(weights)
    for name in weights:
        match = re.fullmatch(r"(.+)\.self_attn\.q_proj\.(weight|bias)", name)
        if not match:
            continue
        block, kind = match.groups()
        parts = [f"{block}.self_attn.{which}_proj.{kind}" for which in "qkv"]
        if all(part in weights for part in parts):
            joined[f"{block}.attn.qkv.{kind}"] = torch.cat([joined.pop(part) for part in parts])
    return joined
