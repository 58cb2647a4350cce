"""The embedded rewards of `emoji`: one compares picture and words, one judges them together.

`emoji_clip` is trained like CLIP, on pictures and captions in pairs. `emoji_preference` says
whether a picture is whole and is what the words ask for. Neither has seen the network that reads
the benchmark or its draws; `examples/train_emoji_judges.py` trains all of them. Of pictures that
the teacher draws for one caption, the first scores a true one above a false one in 69 %, the second
in 83 %; one that is true above a broken one in 92 % and 95 % (`examples/examine_emoji_judges.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.hub.loading import on_meta
from dimo_cli.rewards.embedded import (
    SIDE,
    AskedResidual,
    EmbeddedReward,
    ReadingJudge,
    ReadingReward,
    TowersReward,
    TwoTowers,
    card,
    picture_tower,
)
from dimo_cli.teachers.builtin import builtin_path
from dimo_cli.teachers.emoji.network import WORDS, words_to_ids
from dimo_cli.teachers.emoji.world import vocabulary
from dimo_cli.teachers.patches import Residual
from dimo_cli.teachers.small import fill_from
from dimo_cli.teachers.words import WordTower

CARDS = {
    "emoji_clip": card(
        "emoji_clip",
        "how well a picture of `emoji` fits its words, by two towers",
        "scale x cosine, usually -5 to 25",
        291_073,
    ),
    "emoji_preference": card(
        "emoji_preference",
        "whether a picture of `emoji` is whole and as asked, by one network",
        "log odds, usually -8 to 8",
        260_961,
    ),
}


class EmojiClip(TwoTowers):
    """Two towers with the words of `emoji`."""

    def __init__(self, width: int = 48, joint: int = 80) -> None:
        text = WordTower(len(vocabulary()), WORDS, width, depth=1, heads=4)
        super().__init__(text, width, ((24, 40, 64, 80), (2, 1, 2, 2)), joint)


class EmojiJudge(ReadingJudge):
    """Convolutions whose channels the words turn up and down, and one verdict."""

    def __init__(self, width: int = 48, words: int = 56, seen: int = 56) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(len(vocabulary()), words, mode="sum", padding_idx=0)
        self.read_out = nn.Sequential(nn.Linear(words, words), nn.SiLU(), nn.Linear(words, words))
        self.picture = nn.Sequential(*picture_tower((32, width), (2, 2)), Residual(width))
        self.asked = AskedResidual(width, words)
        self.sum_up = nn.Conv2d(width, seen, 4, stride=2, padding=1)
        self.see = nn.Linear(seen * (SIDE // 8) ** 2, words)
        self.verdict = nn.Sequential(
            nn.Linear(2 * words + 2 * seen, 64), nn.SiLU(), nn.Linear(64, 1)
        )

    def read(self, ids: Tensor) -> Tensor:
        """What words [B, W] ask for, in no order: [B, D]."""
        states: Tensor = self.read_out(self.words(ids))
        return states

    def look(self, pictures: Tensor) -> Tensor:
        """What is where on pictures [B, 3, 32, 32]: [B, D, 8, 8]."""
        features: Tensor = self.picture(pictures)
        return features

    def judge(self, features: Tensor, words: Tensor) -> Tensor:
        """Log odds [B] of what `look` found and what `read` made of the words."""
        x = F.silu(self.sum_up(F.silu(self.asked(features, words))))
        seen = self.see(x.flatten(1))
        places = x.flatten(2)
        found = torch.cat([seen, seen * words, places.mean(-1), places.amax(-1)], dim=1)
        verdict: Tensor = self.verdict(found)
        return verdict.squeeze(-1)


class ClipReward(TowersReward):
    """How near picture and words are."""

    words_to_ids = staticmethod(words_to_ids)


class PreferenceReward(ReadingReward):
    """A judge of picture and words."""

    words_to_ids = staticmethod(words_to_ids)


def load(name: str, store: Any = None, sizes: Any = None) -> EmbeddedReward:
    """An embedded reward with the weights that ship in the package."""
    file = Path(builtin_path(f"{name}.safetensors"))
    if name == "emoji_clip":
        return ClipReward(CARDS[name], fill_from(EmojiClip(), file))
    return PreferenceReward(CARDS[name], fill_from(EmojiJudge(), file))


def blank(name: str) -> EmbeddedReward:
    """An embedded reward without weights."""
    if name == "emoji_clip":
        return ClipReward(CARDS[name], on_meta(EmojiClip))
    return PreferenceReward(CARDS[name], on_meta(EmojiJudge))
