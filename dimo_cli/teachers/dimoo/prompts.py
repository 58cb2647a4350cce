"""Prompts of Lumina-DiMOO: token ids in a template, which the network itself reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dimo_cli.errors import SpecError
from dimo_cli.hub.loading import described_by
from dimo_cli.hub.published import HubFile, Store
from dimo_cli.teachers.conditioning import PromptConditioner, TextTower
from dimo_cli.teachers.protocol import Cond

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEMPLATE = "<system>Generate an image according to the text prompt.</system><user>{prompt}</user>"
UNCONDITION = "<uncondition>"  # in place of a prompt; the empty one was never trained
ENDS_THE_PROMPT = "</user>"
PADDING = -1  # of no row
BLANK = 2**31 - 1  # of no word: tokenizers know no number below 0


class PromptIds(TextTower):
    """Prompts to `text` [B, T]: the ids of the template around each, with padding before it."""

    template = TEMPLATE

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        super().__init__(nn.Identity())
        self.tokenizer, self.length = tokenizer, length
        added = tokenizer.get_added_tokens_decoder().values()
        self.marks = {ENDS_THE_PROMPT, *(token.content for token in added)}

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        for prompt in prompts:
            self.check(prompt)
        return torch.stack([self.ids(prompt) for prompt in prompts])

    def states(self, ids: Tensor) -> dict[str, Tensor]:
        return {"text": ids.masked_fill(ids == BLANK, PADDING)}

    def tokenizer_json(self) -> str:
        from tokenizers import Tokenizer

        alone = Tokenizer.from_str(self.tokenizer.to_str())
        alone.post_processor = None  # what it would add to a text is in none that is read here
        alone.enable_padding(direction="left", length=self.length, pad_id=BLANK)
        return str(alone.to_str())

    def check(self, prompt: str) -> None:
        """Refuse what would not be read as words: a mask, say, which is a place to be filled.

        What stands for no prompt at all may be asked for, alone.
        """
        for mark in sorted(self.marks):
            if mark in prompt and prompt != UNCONDITION:
                raise SpecError(
                    f"The prompt {prompt!r} contains `{mark}`, which is no text to this teacher.",
                    "Leave it out.",
                )

    def ids(self, prompt: str) -> Tensor:
        """The ids [T] of a prompt in its template."""
        text = TEMPLATE.format(prompt=prompt)
        found = self.tokenizer.encode(text, add_special_tokens=False).ids
        if len(found) > self.length:
            raise SpecError(
                f"The prompt {prompt[:40]!r}... takes {len(found)} tokens with its template, and "
                f"`teacher.architecture.text_length` is {self.length}.",
                f"Shorten it, or use `--set teacher.architecture.text_length={len(found)}`.",
            )
        return torch.tensor([BLANK] * (self.length - len(found)) + found)


def load_encoder(tokenizer: HubFile, length: int, store: Store) -> PromptIds:
    """The published tokenizer around prompts."""
    from tokenizers import Tokenizer

    folder = store.folder((tokenizer,))
    with described_by(tokenizer):
        return PromptIds(Tokenizer.from_file(str(folder / "tokenizer.json")), length)


class IdsConditioner(PromptConditioner):
    """Token ids, which are whole numbers and quickly found: none are kept on the disk."""

    def blank(self, count: int) -> Cond:
        return self._complete(
            {name: torch.zeros(count, *s, dtype=torch.long) for name, s in self.shapes.items()}
        )

    def _encode(self, prompts: list[str]) -> list[dict[str, Tensor]]:
        if not prompts:
            return []
        features = self.encoder().encode(prompts)
        return [{"text": row} for row in features["text"].cpu()]
