"""ImageReward v1.0: BLIP's text encoder reads the prompt while looking at the image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.errors import MissingError
from dimo_cli.hub.loading import on_meta
from dimo_cli.hub.published import HubFile, Published, StateDict, Store
from dimo_cli.rewards.networks import AffineHead, VisionSizes, VisionTransformer
from dimo_cli.rewards.protocol import Checkpointed, Reward, RewardCard, RewardText, fill_reward
from dimo_cli.specs.base import Int, Real, Spec

# Mean and deviation of the raw score over the authors' validation set.
MEAN, STD = 0.16717362830052426, 1.0333394966054072
PROMPT_LENGTH = 35
BERT = "google-bert/bert-base-uncased"
VOCABULARY = (HubFile(BERT, "vocab.txt"), HubFile(BERT, "tokenizer_config.json"))

UNUSED = (
    # Projections of BLIP's contrastive training, which the score does not go through.
    "blip.vision_proj.weight",
    "blip.vision_proj.bias",
    "blip.text_proj.weight",
    "blip.text_proj.bias",
    # The numbers 0, 1, 2, ...
    "blip.text_encoder.embeddings.position_ids",
)


def used(weights: StateDict) -> StateDict:
    """The published weights without those that no score depends on."""
    return {name: tensor for name, tensor in weights.items() if name not in UNUSED}


CARDS = {
    "image_reward": RewardCard(
        "image_reward",
        "ImageReward v1.0: how people rate an image for its prompt",
        "standardized rating, usually -2.3 to 2.0",
        "Apache-2.0",
        Published(
            tuple(
                HubFile(f"{owner}/ImageReward", "ImageReward.pt") for owner in ("THUDM", "zai-org")
            ),
            convert=used,
        ),
        446_206_689,
        VOCABULARY,
    )
}


class TextSizes(Spec):
    """BLIP's text encoder: a BERT-base with two more words."""

    vocab_size: Int = 30524
    max_position_embeddings: Int = 512
    hidden_size: Int = 768
    intermediate_size: Int = 3072
    num_hidden_layers: Int = 12
    num_attention_heads: Int = 12
    layer_norm_eps: Real = 1e-12


class ImageRewardSizes(Spec):
    """Both towers; defaults are those of the published model."""

    text_config: TextSizes = TextSizes()
    vision_config: VisionSizes = VisionSizes(
        patch_size=16,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        layer_norm_eps=1e-6,
    )


class Projections(nn.Module):
    """Queries from one sequence, keys and values from another or the same."""

    def __init__(self, width: int, source_width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source_width, width)
        self.value = nn.Linear(source_width, width)


class AddAndNorm(nn.Module):
    """The end of every half of a post-norm layer."""

    def __init__(self, width_in: int, width: int, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, width)
        self.LayerNorm = nn.LayerNorm(width, eps)

    def forward(self, update: Tensor, residual: Tensor) -> Tensor:
        """Project the update, add it, normalize."""
        return self.LayerNorm(self.dense(update) + residual)


class Attention(nn.Module):
    """Attention from the text to itself or to the image."""

    def __init__(self, sizes: TextSizes, source_width: int) -> None:
        super().__init__()
        self.heads = sizes.num_attention_heads
        self.self = Projections(sizes.hidden_size, source_width)
        self.output = AddAndNorm(sizes.hidden_size, sizes.hidden_size, sizes.layer_norm_eps)

    def forward(self, hidden: Tensor, source: Tensor, seen: Tensor | None = None) -> Tensor:
        """[B, T, D] from a source [B, S, E], of which only what is `seen` counts."""
        inputs = ((self.self.query, hidden), (self.self.key, source), (self.self.value, source))
        q, k, v = (
            linear(rows).unflatten(-1, (self.heads, -1)).transpose(1, 2) for linear, rows in inputs
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return self.output(mixed.transpose(1, 2).flatten(2), hidden)


class Layer(nn.Module):
    """Self-attention, attention to the image, feed-forward."""

    def __init__(self, sizes: TextSizes, image_width: int) -> None:
        super().__init__()
        width, wide = sizes.hidden_size, sizes.intermediate_size
        self.attention = Attention(sizes, width)
        self.crossattention = Attention(sizes, image_width)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, wide)})
        self.output = AddAndNorm(wide, width, sizes.layer_norm_eps)

    def forward(self, hidden: Tensor, seen: Tensor, image: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        hidden = self.attention(hidden, hidden, seen)
        hidden = self.crossattention(hidden, image)
        return self.output(F.gelu(self.intermediate["dense"](hidden)), hidden)


class Embeddings(nn.Module):
    """Words and their places; there are no token types."""

    def __init__(self, sizes: TextSizes) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(sizes.vocab_size, sizes.hidden_size)
        self.position_embeddings = nn.Embedding(sizes.max_position_embeddings, sizes.hidden_size)
        self.LayerNorm = nn.LayerNorm(sizes.hidden_size, sizes.layer_norm_eps)

    def forward(self, token_ids: Tensor) -> Tensor:
        """[B, T] to [B, T, D]."""
        places = self.position_embeddings.weight[: token_ids.shape[1]]
        return self.LayerNorm(self.word_embeddings(token_ids) + places)


class TextEncoder(Checkpointed):
    """A bidirectional encoder whose every layer looks at the image."""

    def __init__(self, sizes: TextSizes, image_width: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(sizes)
        layers = nn.ModuleList(Layer(sizes, image_width) for _ in range(sizes.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": layers})

    def forward(self, token_ids: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        """Token ids and their mask [B, T] to states [B, T, D]."""
        hidden, seen = self.embeddings(token_ids), mask.bool()[:, None, None]
        layers = self.encoder["layer"]
        assert isinstance(layers, nn.ModuleList)
        for layer in layers:
            hidden = self.run_block(layer, hidden, seen, image)
        return hidden


class ImageRewardNetwork(nn.Module):
    """BLIP and the head on the state of its first token, under the published names."""

    def __init__(self, sizes: ImageRewardSizes) -> None:
        super().__init__()
        visual = VisionTransformer(sizes.vision_config)
        text = TextEncoder(sizes.text_config, sizes.vision_config.hidden_size)
        self.blip = nn.ModuleDict({"visual_encoder": visual, "text_encoder": text})
        self.mlp = AffineHead(sizes.text_config.hidden_size)

    def forward(self, pixels: Tensor, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Raw scores [B]."""
        image = self.blip["visual_encoder"](pixels)
        return self.mlp(self.blip["text_encoder"](token_ids, mask, image)[:, 0])


class ImageReward(Reward):
    """The standardized score of the published model."""

    def __init__(
        self, card: RewardCard, network: ImageRewardNetwork, image_size: int, tokenizer: Any
    ) -> None:
        super().__init__(card, network, image_size)
        self.tokenizer = tokenizer

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids and mask: the image takes part from the first layer on, so no more is fixed."""
        rows = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=PROMPT_LENGTH,
            return_tensors="pt",
        )
        return {"ids": rows["input_ids"], "mask": rows["attention_mask"]}

    def score(self, pixels: Tensor, text: RewardText) -> Tensor:
        raw = self.network(pixels, text.tensors["ids"], text.tensors["mask"])
        return (raw.float() - MEAN) / STD


def load(name: str, store: Store, sizes: ImageRewardSizes | None = None) -> ImageReward:
    """The model with its weights and its vocabulary."""
    card, found = CARDS[name], sizes or ImageRewardSizes()
    tokenizer = load_tokenizer(store.folder(VOCABULARY))
    network = on_meta(lambda: ImageRewardNetwork(found))
    network = fill_reward(network, store.weights(card.weights), card)
    return ImageReward(card, network, found.vision_config.image_size, tokenizer)


def blank(name: str) -> ImageReward:
    """The model without weights, whose vocabulary knows no word."""
    sizes = ImageRewardSizes()
    network = on_meta(lambda: ImageRewardNetwork(sizes))
    return ImageReward(CARDS[name], network, sizes.vision_config.image_size, no_words)


def no_words(prompts: Sequence[str], max_length: int, **settings: Any) -> dict[str, Tensor]:
    """What a tokenizer would make of prompts, in shape."""
    ids = torch.zeros((len(prompts), max_length), dtype=torch.long)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def load_tokenizer(folder: Path) -> Any:
    """BERT's tokenizer, with the vocabulary of this folder and no other."""
    from transformers import BertTokenizer

    tokenizer = BertTokenizer.from_pretrained(folder, do_lower_case=True, local_files_only=True)
    words = len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
    if len(tokenizer) < words:  # the library would go on with a handful of words of its own
        raise MissingError(
            f"`{folder / 'vocab.txt'}` was not read: {len(tokenizer)} of {words} words."
        )
    return tokenizer
