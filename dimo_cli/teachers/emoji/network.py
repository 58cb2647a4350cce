"""The networks of `emoji`: a text encoder, and a masked transformer that reads text and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.errors import SpecError, nearest
from dimo_cli.teachers.blocks import TextBackbone
from dimo_cli.teachers.conditioning import TextTower
from dimo_cli.teachers.emoji.tokenizer import CODES, GRID
from dimo_cli.teachers.emoji.world import (
    ARTICLES,
    PICTURES,
    SAID_AS,
    Reading,
    read,
    things,
    vocabulary,
)
from dimo_cli.teachers.protocol import Cond
from dimo_cli.teachers.words import WordTower, word_level_json

LENGTH, MASK_ID = GRID * GRID, CODES
WORDS = 16
SUMMARY = 2
"""States that a caption is told in."""
WIDTH = 128
SKETCH = 16
"""Numbers that a sketch has for each token."""
LONGEST = 100  # letters of a prompt in an error
SHOWN = 12  # names in an error: all of them are no help


def words_to_ids(prompts: Sequence[str]) -> Tensor:
    """Prompts as word numbers [B, 16]: words that say nothing are left out, not all may be."""
    known = {word: number for number, word in enumerate(vocabulary())}
    ids = torch.zeros(len(prompts), WORDS, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        numbers = [known[word] for word in understood(prompt).words]
        ids[row, : len(numbers)] = torch.tensor(numbers, dtype=torch.long)
    return ids


def left_out(prompt: str) -> tuple[str, ...]:
    """The words that are left out of a prompt."""
    return understood(prompt).left_out


def understood(prompt: str) -> Reading:
    """What a prompt says; refused where that is nothing to draw."""
    reading = read(prompt)
    if prompt.strip() and reading.scene.thing is None:
        raise nothing_to_draw(prompt, reading.left_out)
    return reading


def nothing_to_draw(prompt: str, strange: Sequence[str]) -> SpecError:
    """Why a prompt is refused, with the nearest names."""
    names = [name for thing in things() for name in thing.names]
    guesses = (nearest(word, names) for word in dict.fromkeys(strange[:WORDS]))
    near = list(dict.fromkeys(f"`{name}`" for name in guesses if name))
    some = ", ".join(thing.names[0] for thing in things()[:: len(things()) // SHOWN])
    return SpecError(
        f"`emoji` has no drawing of anything in the prompt {shorten(prompt, LONGEST)!r}.",
        (f"Did you mean {' or '.join(near[:3])}? " if near else "")
        + f"It knows {len(things())} things by their English names: {some} and so on. For any "
        "other prompt take a teacher that was trained on the world, such as "
        "`dimo sample --preset meissonic --teacher`.",
    )


class EmojiText(WordTower):
    """The text encoder: a tower that tells a whole caption in its first states."""

    def __init__(self, width: int = WIDTH, depth: int = 2, heads: int = 4) -> None:
        super().__init__(len(vocabulary()), WORDS, width, depth, heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        """Map word numbers [B, 16] to [B, 2, D]."""
        return self.norm(super().forward(ids)[:, :SUMMARY])


class EmojiTextEncoder(TextTower):
    """The text encoder behind the protocol."""

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        return words_to_ids(prompts)

    def states(self, ids: Tensor) -> dict[str, Tensor]:
        return {"text": self.network(ids)}

    def tokenizer_json(self) -> str:
        articles, pictures = "|".join(ARTICLES), "|".join(PICTURES)
        spelled = {rf"\b{said}\b": meant for said, meant in SAID_AS.items()}
        openings = {rf"\b({pictures}) of\b": " ", rf"\b({articles})\b": " "}
        replaced = {r"[^\w]|_": " ", **openings, **spelled}
        return word_level_json(vocabulary(), WORDS, replaced)


class EmojiBackbone(TextBackbone):
    """A transformer that is shown a rough sketch of what the text asks for, token by token.

    Hundreds of drawings have to be remembered. Two layers that see the text alone hold them at a
    fraction of what it costs the blocks, which run for every token.
    """

    def __init__(self, width: int = WIDTH, depth: int = 6, heads: int = 4) -> None:
        super().__init__(CODES, GRID, width, depth, heads)
        self.recall = nn.Linear(SUMMARY * width, 3 * width)
        self.sketch = nn.Linear(3 * width, LENGTH * SKETCH)
        self.show = nn.Linear(SKETCH, width)

    def placed(self, embeds: Tensor, cond: Cond) -> Tensor:
        recalled = F.gelu(self.recall(cond.tensors["text"].flatten(1)))
        sketch = self.sketch(recalled).unflatten(1, (LENGTH, SKETCH))
        return super().placed(embeds, cond) + self.show(sketch)
