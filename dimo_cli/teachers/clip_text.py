"""CLIP's text tower, shared by all families that read prompts.

The network is transformers' own; weights come under transformers' names or under open_clip's.
Padding is never masked: attention is causal, so what matters is which id pads, and that is up to
the tokenizer of each family.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dimo_cli.hub.loading import fill, on_meta
from dimo_cli.hub.published import StateDict

N = TypeVar("N", bound=nn.Module)

# The entries of transformers' CLIPTextConfig that change what is computed.
SETTINGS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "projection_dim",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "eos_token_id",
)

# A whole CLIP carries these beside its text tower: the image tower with its projection, the scale
# of the contrastive loss, and constant position numbers.
NOT_TEXT = re.compile(
    r"vision_model\.|visual_projection\.|visual\.|logit_scale$|text_model\.embeddings\.position_ids$"
)

# open_clip's names within the tower, and transformers'.
FROM_OPEN_CLIP = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
LAYER_FROM_OPEN_CLIP = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def build_clip_text(config: Mapping[str, Any]) -> nn.Module:
    """The tower with its projection, on the meta device, from settings of CLIPTextConfig."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    settings = {name: config[name] for name in SETTINGS if name in config}
    return on_meta(lambda: CLIPTextModelWithProjection(CLIPTextConfig(**settings)))


def fill_clip_text(network: N, weights: StateDict, what: str) -> N:
    """Give the tower its weights (of `clip_text_weights`), strictly, and make it ready for use."""
    network = fill(network, weights, what)
    restore_positions(network)
    return network


def restore_positions(network: nn.Module) -> None:
    """Number the positions of a tower that was built on the meta device.

    They are no weight, so they are the one thing a file does not bring along.
    """
    embeddings = network.get_submodule("text_model.embeddings")
    count = embeddings.get_buffer("position_ids").shape[-1]
    embeddings.position_ids = torch.arange(count)[None]


def features(model: nn.Module, token_ids: Tensor) -> dict[str, Tensor]:
    """What families take from the tower for token ids [B, T].

    `penultimate` [B, T, D]: the states before the last layer, without any norm; `final` [B, T, D]:
    the states after the last norm; `pooled` [B, P]: the final state of the first end token,
    projected, not normalized.
    """
    output = model(input_ids=token_ids, output_hidden_states=True)
    return {
        "penultimate": output.hidden_states[-2],
        "pooled": output.text_embeds,
        "final": output.last_hidden_state,
    }


def clip_text_weights(weights: StateDict) -> StateDict:
    """The text half of a published CLIP under transformers' names."""
    text = {name: tensor for name, tensor in weights.items() if not NOT_TEXT.match(name)}
    if any(name.startswith("text_model.") for name in text):
        return text
    converted: StateDict = {}
    for name, tensor in text.items():
        converted |= from_open_clip(name, tensor)
    return converted


def from_open_clip(name: str, tensor: Tensor) -> StateDict:
    """One tensor of an open_clip text tower under transformers' names; unknown names stay."""
    if name == "text_projection":  # a matrix that is multiplied from the right
        return {"text_projection.weight": tensor.T}
    match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)", name)
    if not match:
        return {FROM_OPEN_CLIP.get(name, name): tensor}
    number, part, kind = match.groups()
    layer = f"text_model.encoder.layers.{number}"
    if part == "attn.in_proj":
        thirds = zip("qkv", tensor.chunk(3), strict=True)
        return {f"{layer}.self_attn.{which}_proj.{kind}": third for which, third in thirds}
    return {f"{layer}.{LAYER_FROM_OPEN_CLIP.get(part, part)}.{kind}": tensor}


@cache
def _open_clip_tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def open_clip_tokens(prompts: Sequence[str], length: int = 77) -> Tensor:
    """Token ids [B, length] as open_clip has them: cut behind an end token, padded with zeros."""
    ids: Tensor = _open_clip_tokenizer()(list(prompts), context_length=length)
    return ids


def open_clip_json(length: int = 77) -> str:
    """What `open_clip_tokens` does with plain text, in the format of the package `tokenizers`."""
    from transformers import CLIPTokenizer

    own = _open_clip_tokenizer()
    names = {own.sot_token_id: "<|startoftext|>", own.eot_token_id: "<|endoftext|>"}
    words = {names.get(number, word): number for word, number in own.encoder.items()}
    return padded_to(length, CLIPTokenizer(vocab=words, merges=list(own.bpe_ranks)), 0)


def padded_to(length: int, tokenizer: Any, pad_id: int) -> str:
    """A tokenizer of transformers as JSON of `tokenizers`, which cuts and pads to one length."""
    from tokenizers import Tokenizer

    alone = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    alone.enable_truncation(length)
    alone.enable_padding(length=length, pad_id=pad_id, pad_token=alone.id_to_token(pad_id))
    return str(alone.to_str())
