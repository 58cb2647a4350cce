"""The embedded rewards of `shapes`: one compares picture and words, one judges them together.

`shapes_clip` is trained like CLIP, on pictures and captions in pairs. `shapes_preference` reads
both at once and says whether a picture is whole and is what the words ask for. They share neither
weights nor training draws, so that one can watch while a student is trained for the other. Both are
trained by `examples/train_shapes_rewards.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dimo_cli.rewards.protocol import Reward, RewardCard, RewardText
from dimo_cli.teachers.blocks import Block
from dimo_cli.teachers.blueprint import Published
from dimo_cli.teachers.digits import builtin_path
from dimo_cli.teachers.shapes.network import WordTower, words_to_ids
from dimo_cli.teachers.shapes.world import SIDE


def card(name: str, summary: str, scale_note: str, parameters: int) -> RewardCard:
    """An embedded reward has nothing to download."""
    return RewardCard(name, summary, scale_note, "Apache-2.0", Published(()), parameters)


CARDS = {
    "shapes_clip": card(
        "shapes_clip",
        "how well a picture of `shapes` fits its words, by two towers",
        "scale x cosine, usually -5 to 15",
        834_049,
    ),
    "shapes_preference": card(
        "shapes_preference",
        "whether a picture of `shapes` is whole and as asked, by one network",
        "log odds, usually -8 to 8",
        592_833,
    ),
}


def picture_tower(widths: Sequence[int], strides: Sequence[int]) -> nn.Sequential:
    """Convolutions with SiLU behind each."""
    parts: list[nn.Module] = []
    for (before, after), stride in zip(pairwise([3, *widths]), strides, strict=True):
        size = 4 if stride == 2 else 3
        parts += [nn.Conv2d(before, after, size, stride=stride, padding=1), nn.SiLU()]
    return nn.Sequential(*parts)


class ShapesClip(nn.Module):
    """Two towers and the cosine of what they make."""

    def __init__(self, width: int = 96, joint: int = 128) -> None:
        super().__init__()
        self.text = WordTower(width, depth=2, heads=4)
        self.text_out = nn.Linear(width, joint)
        self.picture = picture_tower((32, 64, 96, 128), (1, 2, 2, 2))
        self.picture_out = nn.Linear(128 * (SIDE // 8) ** 2, joint)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def embed_text(self, ids: Tensor) -> Tensor:
        """Unit vectors [B, J] of word numbers [B, T]."""
        is_word = (ids > 0).float()[..., None]
        states = (self.text(ids) * is_word).sum(1) / is_word.sum(1).clamp(min=1)
        return F.normalize(self.text_out(states), dim=-1)

    def embed_pictures(self, pictures: Tensor) -> Tensor:
        """Unit vectors [B, J] of pictures [B, 3, 32, 32]."""
        return F.normalize(self.picture_out(self.picture(pictures).flatten(1)), dim=-1)


class ShapesJudge(nn.Module):
    """Words and patches as one sequence, and one number at its front."""

    def __init__(self, width: int = 96, depth: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.picture = picture_tower((32, 64, width), (1, 2, 2))
        self.place = nn.Parameter(0.02 * torch.randn((SIDE // 4) ** 2, width))
        self.text = WordTower(width, depth=1, heads=heads)
        self.verdict = nn.Parameter(0.02 * torch.randn(1, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, 1)

    def forward(self, pictures: Tensor, ids: Tensor) -> Tensor:
        """Log odds [B] that a picture is whole and as asked."""
        patches = self.picture(pictures).flatten(2).transpose(1, 2) + self.place
        verdict = self.verdict.expand(len(pictures), 1, -1)
        x = torch.cat([verdict, patches, self.text(ids)], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x[:, 0])).squeeze(-1)


class ShapesReward(Reward):
    """An embedded reward behind the protocol: pictures need no resizing, words no model."""

    def __init__(self, card: RewardCard, network: nn.Module) -> None:
        super().__init__(card, network, SIDE)

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return {"ids": words_to_ids(prompts)}

    def forward(self, images: Tensor, text: RewardText) -> Tensor:
        pixels = images.float().clamp(-1, 1)
        if pixels.shape[-1] != SIDE:
            pixels = F.interpolate(pixels, size=(SIDE, SIDE), mode="bilinear", antialias=True)
        return self.score(pixels, text)

    def score(self, pixels: Tensor, text: RewardText) -> Tensor:
        network, ids = self.network, text.tensors["ids"]
        if isinstance(network, ShapesClip):
            cosines = (network.embed_pictures(pixels) * network.embed_text(ids)).sum(-1)
            return network.logit_scale.exp() * cosines
        scores: Tensor = network(pixels, ids)
        return scores


def load(name: str, store: Any = None, sizes: Any = None) -> ShapesReward:
    """An embedded reward with the weights that ship in the package."""
    network = ShapesClip() if name == "shapes_clip" else ShapesJudge()
    weights = load_file(Path(builtin_path(f"{name}.safetensors")))
    network.load_state_dict({key: tensor.float() for key, tensor in weights.items()})
    return ShapesReward(CARDS[name], network)
