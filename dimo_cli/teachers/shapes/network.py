"""The networks of `shapes`: a text encoder, and a masked transformer that reads text and tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dimo_cli.errors import SpecError, nearest
from dimo_cli.teachers import words
from dimo_cli.teachers.blocks import TextBackbone
from dimo_cli.teachers.conditioning import TextTower
from dimo_cli.teachers.shapes.tokenizer import CODES, GRID
from dimo_cli.teachers.shapes.world import vocabulary

LENGTH, MASK_ID = GRID * GRID, CODES
WORDS = 22
SUMMARY = 2
"""States that a caption is told in, one for each group that a scene can have."""
WIDTH = 128


# What people write for words of the world.
SAID_AS = {
    "grey": "gray",
    "photo": "picture",
    "1": "one",
    "2": "two",
    "3": "three",
    "4": "four",
    "tiny": "small",
    "huge": "large",
    "violet": "purple",
    "discs": "circles",
    "disc": "circle",
    "&": "and",
}


def words_of(prompt: str) -> list[str]:
    """The words of a prompt as captions have them, whatever its case, marks and articles are."""
    spaced = re.sub(r"[^\w&]|_", " ", prompt.lower())
    words = [SAID_AS.get(word, word) for word in spaced.split()]
    for place, (word, follower) in enumerate(pairwise(words)):
        if word in ("a", "an") and follower != "one":
            words[place] = "an" if follower[0] in "aeiou" else "a"
    return words


def words_to_ids(prompts: Sequence[str]) -> Tensor:
    """Prompts as word numbers [B, 22]; a word that the world does not have is refused."""
    known = {word: number for number, word in enumerate(vocabulary())}
    ids = torch.zeros(len(prompts), WORDS, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        words = words_of(prompt)
        strange = [word for word in words if word not in known]
        if strange:
            guess = nearest(strange[0], known)
            raise SpecError(
                f"`shapes` does not know the word `{strange[0]}`.",
                (f"Did you mean `{guess}`? " if guess else "")
                + f"It knows: {', '.join(vocabulary()[1:])}.",
            )
        if len(words) > WORDS:
            raise SpecError(
                f"`shapes` reads at most {WORDS} words, and the prompt has {len(words)}."
            )
        ids[row, : len(words)] = torch.tensor([known[word] for word in words], dtype=torch.long)
    return ids


class WordTower(words.WordTower):
    """Words to states [B, 22, D]."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__(len(vocabulary()), WORDS, width, depth, heads)


class ShapesText(WordTower):
    """The text encoder: a tower that tells a whole caption in its first states."""

    def __init__(self, width: int = WIDTH, depth: int = 2, heads: int = 4) -> None:
        super().__init__(width, depth, heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        """Map word numbers [B, 22] to [B, 2, D]."""
        return self.norm(super().forward(ids)[:, :SUMMARY])


class ShapesTextEncoder(TextTower):
    """The text encoder behind the protocol."""

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        return words_to_ids(prompts)

    def states(self, ids: Tensor) -> dict[str, Tensor]:
        return {"text": self.network(ids)}

    def tokenizer_json(self) -> str:
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

        words = vocabulary()  # without one that stands for all others: a strange word is refused
        tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}))
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Lowercase(), normalizers.Replace(Regex("[,.]"), " ")]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.enable_padding(length=WORDS, pad_id=0, pad_token=words[0])
        return str(tokenizer.to_str())


class ShapesBackbone(TextBackbone):
    """Image tokens first, then the text, as one sequence through all blocks."""

    def __init__(self, width: int = WIDTH, depth: int = 6, heads: int = 4) -> None:
        super().__init__(CODES, GRID, width, depth, heads)
