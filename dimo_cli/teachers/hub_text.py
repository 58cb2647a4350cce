"""The text encoder of repositories in diffusers' layout: `text_encoder/` and `tokenizer/`.

Families are conditioned on CLIP's states before the last layer, and on the projected state of the
end-of-text token. Their tokenizer folders say how prompts are cut into words, and which id pads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from dimo_cli.hub.loading import described_by
from dimo_cli.hub.published import HubFile, Published, Store
from dimo_cli.teachers.clip_text import (
    build_clip_text,
    clip_text_weights,
    features,
    fill_clip_text,
    padded_to,
)
from dimo_cli.teachers.conditioning import TextTower

TEXT_LENGTH = 77
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


class HubTextEncoder(TextTower):
    """Prompts to `text` [B, T, C] and `pooled` [B, P].

    Token ids are cut or padded to the one length that the tokenizer states.
    """

    def __init__(self, network: nn.Module, tokenizer: Any) -> None:
        super().__init__(network)
        self.tokenizer = tokenizer
        self.length = min(tokenizer.model_max_length, TEXT_LENGTH)

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        rows: dict[str, Tensor] = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )
        return rows["input_ids"]

    def states(self, ids: Tensor) -> dict[str, Tensor]:
        found = features(self.network, ids)
        return {"text": found["penultimate"].float(), "pooled": found["pooled"].float()}

    def tokenizer_json(self) -> str:
        return padded_to(self.length, self.tokenizer, self.tokenizer.pad_token_id)


def text_weights(repo: str) -> Published:
    """The weights of the text encoder; in half size if need be."""
    names = ("model.safetensors", "model.fp16.safetensors")
    files = tuple(HubFile(repo, f"text_encoder/{name}") for name in names)
    return Published(files, convert=clip_text_weights)


def text_files(repo: str) -> tuple[HubFile, ...]:
    """All files that encoding prompts takes: config, weights, vocabulary, merges and the rest."""
    tokenizer = (HubFile(repo, f"tokenizer/{name}") for name in TOKENIZER_FILES)
    return (HubFile(repo, "text_encoder/config.json"), text_weights(repo).files[0], *tokenizer)


def load_text_encoder(repo: str, store: Store) -> HubTextEncoder:
    """The text encoder of a repository, with its weights and its vocabulary."""
    from transformers import CLIPTokenizer

    config_file, weights_file, vocabulary, merges, *others = text_files(repo)
    with described_by(config_file):
        network = build_clip_text(store.config(config_file))
    network = fill_clip_text(network, store.weights(text_weights(repo)), f"`{weights_file}`")
    store.folder((merges,))  # without these the tokenizer would start all the same, and cut wrongly
    folder = store.folder((vocabulary, merges, *others))
    with described_by(vocabulary):
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    return HubTextEncoder(network, tokenizer)
