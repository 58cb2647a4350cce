"""Text encoders of the embedded teachers: a small tower over the words that a world has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dimo_cli.teachers.blocks import Block


class WordTower(nn.Module):
    """Words to states [B, W, D]; `vocabulary` is the number of words, `length` that of places."""

    def __init__(self, vocabulary: int, length: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))

    def forward(self, ids: Tensor) -> Tensor:
        """Map word numbers [B, W] to [B, W, D]; the number 0 is no word."""
        x = self.words(ids) + self.position
        for block in self.blocks:
            x = block(x)
        return x


def word_level_json(words: Sequence[str], length: int, replaced: Mapping[str, str]) -> str:
    """What makes word numbers of a text, in the format of the package `tokenizers`.

    The first word is none at all, and stands for what is not known. `replaced` are regular
    expressions, and what each becomes after the text is put in lower case.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    numbers = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=words[0]))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            *(normalizers.Replace(Regex(old), new) for old, new in replaced.items()),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_padding(length=length, pad_id=0, pad_token=words[0])
    return str(tokenizer.to_str())
