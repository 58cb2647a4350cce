"""What a frozen network made of prompts: keys and values of all its layers, of the latest ones.

They are kept in memory and not on disk, other than a text encoder's features: at the published size
they are 25 MB a prompt in half precision, which takes longer to read than to compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

MOST_BYTES = 2**30  # 42 prompts of the published size in half precision


class PromptMemory:
    """Keys and values by prompt, as long as the weights stay what they are."""

    def __init__(self) -> None:
        self.state: Any = None
        self.rows: dict[str, Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> PromptMemory:
        """A copied network may be trained: it remembers nothing."""
        return PromptMemory()

    def recall(
        self,
        state: Any,
        texts: Sequence[str],
        ids: Tensor,
        read: Callable[[Tensor], Tensor],
        at_once: int | None = None,
    ) -> Tensor:
        """What `read` makes of the ids [B, T] of texts at a `state` of the weights, new ones alone.

        Texts tell what is new, for which no device is waited. `at_once` is how many rows `read`
        takes, where it is compiled for a number; some are read twice then.
        """
        if state != self.state:
            self.state, self.rows = state, {}
        new = {text: index for index, text in enumerate(texts) if text not in self.rows}
        if new:
            chosen = list(new.values())
            chosen += [chosen[-1]] * ((at_once or 0) - len(chosen))
            found = read(torch.cat([ids[index : index + 1] for index in chosen]))
            self.rows |= {text: row.clone() for text, row in zip(new, found, strict=False)}
        past = torch.stack([self.rows[text] for text in texts])
        self.forget_all_but_the_latest(texts)
        return past

    def forget_all_but_the_latest(self, texts: Sequence[str]) -> None:
        """Let go of what was asked for longest ago, where all of it takes too much memory."""
        for text in dict.fromkeys(texts):
            self.rows[text] = self.rows.pop(text)
        held = sum(row.nbytes for row in self.rows.values())
        for text in list(self.rows):
            if held <= MOST_BYTES:
                break
            held -= self.rows.pop(text).nbytes
