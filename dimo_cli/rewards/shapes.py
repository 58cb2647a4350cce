"""The embedded rewards of `shapes`: one compares picture and words, two judge them together.

`shapes_clip` is trained like CLIP, on rendered pictures and captions in pairs: a weak judge.
`shapes_preference` says whether a picture is whole and is what the words ask for, which it reads
with the teacher's text encoder. `shapes_witness` says the same: another network with words of its
own, trained on other scenes and other draws, that watches while a student is trained for another.
`examples/train_shapes_rewards.py` trains the first, `examples/train_shapes_judges.py` the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.hub.loading import on_meta
from dimo_cli.rewards.embedded import (
    AskedResidual,
    EmbeddedReward,
    ReadingJudge,
    ReadingReward,
    TowersReward,
    TwoTowers,
    card,
    mean_of_words,
    picture_tower,
)
from dimo_cli.rewards.protocol import RewardCard, RewardText
from dimo_cli.teachers.builtin import builtin_path
from dimo_cli.teachers.patches import Residual
from dimo_cli.teachers.shapes.network import (
    SUMMARY,
    WIDTH,
    ShapesText,
    WordTower,
    words_to_ids,
)
from dimo_cli.teachers.shapes.world import SIDE
from dimo_cli.teachers.small import fill_from

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
        1_058_617,
    ),
    "shapes_witness": card(
        "shapes_witness",
        "the same as `shapes_preference`, by another network from other pictures: it watches",
        "log odds, usually -8 to 8",
        660_801,
    ),
}


class ShapesClip(TwoTowers):
    """Two towers with the words of `shapes`."""

    def __init__(self, width: int = 96, joint: int = 128) -> None:
        text = WordTower(width, depth=2, heads=4)
        super().__init__(text, width, ((32, 64, 96, 128), (1, 2, 2, 2)), joint)


class ShapesJudge(nn.Module):
    """Counts on the picture what each group of the words asks for, and compares.

    Sums, not means, go through gates that the words open: three circles are more than two.
    """

    def __init__(self, width: int = 96, gates: int = 24, depth: int = 8, hidden: int = 192) -> None:
        super().__init__()
        self.picture = nn.Sequential(
            *picture_tower((32, 64, width), (1, 2, 2)), Residual(width), Residual(width), nn.SiLU()
        )
        self.gates = gates
        self.question = nn.Linear(WIDTH, gates * depth)
        self.answer = nn.Conv2d(width, gates * depth, 1)
        self.threshold = nn.Parameter(torch.full((gates, 1), -2.0))
        self.whole = nn.Conv2d(width, 64, 1)
        seen = SUMMARY * (WIDTH + 3 * gates) + 2 * 64
        self.verdict = nn.Sequential(
            nn.Linear(seen, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 1),
        )

    def look(self, pictures: Tensor) -> Tensor:
        """What is where on pictures [B, 3, 32, 32]: [B, D, 8, 8]."""
        features: Tensor = self.picture(pictures)
        return features

    def judge(self, features: Tensor, states: Tensor) -> Tensor:
        """Log odds [B] of what `look` found and the text encoder's states [B, 2, D]."""
        questions = self.question(states).unflatten(-1, (self.gates, -1))
        answers = self.answer(features).flatten(2).unflatten(1, (self.gates, -1))
        fits = torch.einsum("bsgd,bgdp->bsgp", questions, answers)
        opened = (fits + self.threshold).sigmoid()
        side = features.shape[-1]
        line = torch.linspace(-1, 1, side, device=features.device, dtype=opened.dtype)
        places = torch.stack([line.repeat(side), line.repeat_interleave(side)], dim=1)
        found = torch.cat([opened.sum(-1, keepdim=True), opened @ places], dim=-1)
        whole = F.silu(self.whole(features)).flatten(2)
        seen = [states.flatten(1), found.flatten(1), whole.mean(-1), whole.amax(-1)]
        verdict: Tensor = self.verdict(torch.cat(seen, dim=1))
        return verdict.squeeze(-1)

    def forward(self, pictures: Tensor, states: Tensor) -> Tensor:
        """Log odds [B] that a picture is whole and as the text encoder's states [B, 2, D] say."""
        return self.judge(self.look(pictures), states)


class ShapesWitness(ReadingJudge):
    """Convolutions whose channels the words turn up and down, and one number of all places."""

    def __init__(self, width: int = 80, text_width: int = 96, pooled: int = 128) -> None:
        super().__init__()
        self.text = WordTower(text_width, depth=1, heads=4)
        self.text_out = nn.Linear(text_width, text_width)
        self.picture = nn.Sequential(*picture_tower((48, width), (2, 2)), Residual(width))
        self.place = nn.Parameter(0.02 * torch.randn(width, SIDE // 4, SIDE // 4))
        self.asked = nn.ModuleList(AskedResidual(width, text_width) for _ in range(2))
        self.pool = nn.Conv2d(width, pooled, 1)
        self.out = nn.Sequential(
            nn.Linear(2 * pooled + text_width, pooled), nn.SiLU(), nn.Linear(pooled, 1)
        )

    def read(self, ids: Tensor) -> Tensor:
        """What words [B, 22] ask for: [B, D]."""
        return F.silu(self.text_out(mean_of_words(self.text(ids), ids)))

    def look(self, pictures: Tensor) -> Tensor:
        """What is where on pictures [B, 3, 32, 32]: [B, D, 8, 8]."""
        features: Tensor = self.picture(pictures) + self.place
        return features

    def judge(self, features: Tensor, words: Tensor) -> Tensor:
        """Log odds [B] of what `look` found and what `read` made of the words."""
        x = features
        for block in self.asked:
            x = block(x, words)
        x = F.silu(self.pool(F.silu(x))).flatten(2)
        verdict: Tensor = self.out(torch.cat([x.mean(-1), x.amax(-1), words], dim=1))
        return verdict.squeeze(-1)


class ClipReward(TowersReward):
    """How near picture and words are."""

    words_to_ids = staticmethod(words_to_ids)


class PreferenceReward(EmbeddedReward):
    """A judge that reads with the text encoder of the teacher."""

    network: ShapesJudge
    words_to_ids = staticmethod(words_to_ids)

    def __init__(self, card: RewardCard, network: ShapesJudge, reader: ShapesText) -> None:
        super().__init__(card, network)
        self.reader = reader.requires_grad_(False).eval()

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return {"states": self.reader(self.ids_of(prompts))}

    def score(self, pixels: Tensor, text: RewardText) -> Tensor:
        scores: Tensor = self.network(pixels, text.tensors["states"])
        return scores


class WitnessReward(ReadingReward):
    """A judge that reads for itself."""

    words_to_ids = staticmethod(words_to_ids)


def load(name: str, store: Any = None, sizes: Any = None) -> EmbeddedReward:
    """An embedded reward with the weights that ship in the package."""
    builtin = Path(builtin_path(""))
    file = builtin / f"{name}.safetensors"
    if name == "shapes_clip":
        return ClipReward(CARDS[name], fill_from(ShapesClip(), file))
    if name == "shapes_witness":
        return WitnessReward(CARDS[name], fill_from(ShapesWitness(), file))
    reader = fill_from(ShapesText(), builtin / "shapes_text.safetensors")
    return PreferenceReward(CARDS[name], fill_from(ShapesJudge(), file), reader)


def blank(name: str) -> EmbeddedReward:
    """An embedded reward without weights."""
    if name == "shapes_clip":
        return ClipReward(CARDS[name], on_meta(ShapesClip))
    if name == "shapes_witness":
        return WitnessReward(CARDS[name], on_meta(ShapesWitness))
    return PreferenceReward(CARDS[name], on_meta(ShapesJudge), on_meta(ShapesText))
