"""What the rewards that ship in the package share: small networks that look at small pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.hub.published import Published
from dimo_cli.rewards.protocol import Reward, RewardCard, RewardText

SIDE = 32  # of the pictures of every world that has rewards of its own


def card(name: str, summary: str, scale_note: str, parameters: int) -> RewardCard:
    """An embedded reward has nothing to download."""
    return RewardCard(name, summary, scale_note, "Apache-2.0", Published(()), parameters)


def picture_tower(widths: Sequence[int], strides: Sequence[int]) -> nn.Sequential:
    """Convolutions with SiLU behind each."""
    parts: list[nn.Module] = []
    for (before, after), stride in zip(pairwise([3, *widths]), strides, strict=True):
        size = 4 if stride == 2 else 3
        parts += [nn.Conv2d(before, after, size, stride=stride, padding=1), nn.SiLU()]
    return nn.Sequential(*parts)


def mean_of_words(states: Tensor, ids: Tensor) -> Tensor:
    """The mean [B, D] of states [B, T, D] over the numbers [B, T] that are words: all but 0."""
    is_word = (ids > 0).float()[..., None]
    return (states * is_word).sum(1) / is_word.sum(1).clamp(min=1)


class TwoTowers(nn.Module):
    """A tower of words, one of a picture, and the cosine of what they make."""

    def __init__(
        self, text: nn.Module, width: int, tower: tuple[Sequence[int], Sequence[int]], joint: int
    ) -> None:
        """`width` is that of the words' states; `tower` has widths and strides of the picture's."""
        super().__init__()
        self.text = text
        self.text_out = nn.Linear(width, joint)
        self.picture = picture_tower(*tower)
        self.picture_out = nn.Linear(tower[0][-1] * (SIDE // 8) ** 2, joint)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def embed_text(self, ids: Tensor) -> Tensor:
        """Unit vectors [B, J] of word numbers [B, T]."""
        return F.normalize(self.text_out(mean_of_words(self.text(ids), ids)), dim=-1)

    def embed_pictures(self, pictures: Tensor) -> Tensor:
        """Unit vectors [B, J] of pictures [B, 3, 32, 32]."""
        return F.normalize(self.picture_out(self.picture(pictures).flatten(1)), dim=-1)


class AskedResidual(nn.Module):
    """Two convolutions beside a skip connection; the words say which channels count."""

    def __init__(self, width: int, words: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.asked = nn.Linear(words, 4 * width)

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C, H, W]."""
        scale, shift, more_scale, more_shift = self.asked(words)[..., None, None].chunk(4, 1)
        y = self.first(F.silu(x)) * (1 + scale) + shift
        return x + self.second(F.silu(y)) * (1 + more_scale) + more_shift


class ReadingJudge(nn.Module, ABC):
    """A judge of picture and words that reads for itself."""

    @abstractmethod
    def read(self, ids: Tensor) -> Tensor:
        """What word numbers [B, T] ask for: [B, D]."""

    @abstractmethod
    def look(self, pictures: Tensor) -> Tensor:
        """What is where on pictures [B, 3, 32, 32]: [B, D, 8, 8]."""

    @abstractmethod
    def judge(self, features: Tensor, words: Tensor) -> Tensor:
        """Log odds [B] of what `look` found and what `read` made of the words."""

    def forward(self, pictures: Tensor, words: Tensor) -> Tensor:
        """Log odds [B] that pictures [B, 3, 32, 32] are whole and as `read` says [B, D]."""
        return self.judge(self.look(pictures), words)


class EmbeddedReward(Reward):
    """An embedded reward behind the protocol: pictures need no preparation."""

    def __init__(self, card: RewardCard, network: nn.Module) -> None:
        super().__init__(card, network, SIDE)

    def forward(self, images: Tensor, text: RewardText) -> Tensor:
        pixels = images.float().clamp(-1, 1)
        if pixels.shape[-1] != SIDE:
            pixels = F.interpolate(pixels, size=(SIDE, SIDE), mode="bilinear", antialias=True)
        return self.score(pixels, text)

    @staticmethod
    @abstractmethod
    def words_to_ids(prompts: Sequence[str]) -> Tensor:
        """Prompts as word numbers [B, T], as its world has them; 0 is no word."""

    def ids_of(self, prompts: Sequence[str]) -> Tensor:
        """The words of prompts as numbers, where the network is."""
        return self.words_to_ids(prompts).to(self.device)


class TowersReward(EmbeddedReward):
    """How near picture and words are."""

    network: TwoTowers

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return {"words": self.network.embed_text(self.ids_of(prompts))}

    def score(self, pixels: Tensor, text: RewardText) -> Tensor:
        cosines = (self.network.embed_pictures(pixels) * text.tensors["words"]).sum(-1)
        return self.network.logit_scale.exp() * cosines


class ReadingReward(EmbeddedReward):
    """A judge that reads for itself."""

    network: ReadingJudge

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return {"words": self.network.read(self.ids_of(prompts))}

    def score(self, pixels: Tensor, text: RewardText) -> Tensor:
        scores: Tensor = self.network(pixels, text.tensors["words"])
        return scores
