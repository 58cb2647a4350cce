"""What a frozen network made of prompts: keys and values of all its layers, of the latest ones.

They are kept in memory and not on disk, other than a text encoder's features: at the published size
they are 25 MB a prompt in half precision, which takes longer to read than to compute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOST_BYTES = 2**31  # 85 prompts of the published size in half precision


class PromptMemory:
    """Keys and values by prompt, as long as the weights stay what they are."""

    def __init__(self) -> None:
        self.state: Any = None
        self.rows: dict[bytes, Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> PromptMemory:
        """A copied network may be trained: it remembers nothing."""
        return PromptMemory()

    def recall(self, state: Any, ids: Tensor, read: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """What `read` makes of each prompt [B, T], at a `state` of the weights; of new ones alone.

        Prompts are looked up on the CPU, so that a GPU is waited for.
        """
        if state != self.state:
            self.state, self.rows = state, {}
        keys = [row.tobytes() for row in ids.cpu().numpy()]
        new = {key: index for index, key in enumerate(keys) if key not in self.rows}
        if new:
            chosen = torch.tensor(list(new.values()), device=ids.device)
            found = dict(zip(new, read(ids[chosen]).unbind(), strict=True))
            self.rows |= {key: row.clone() for key, row in found.items()}
        rows = [self.rows[key] for key in keys]
        self.forget(set(keys))
        return rows

    def forget(self, latest: set[bytes]) -> None:
        """Let go of the oldest prompts where all take too much memory; the latest stay."""
        self.rows = {key: row for key, row in self.rows.items() if key not in latest} | {
            key: row for key, row in self.rows.items() if key in latest
        }
        held = sum(row.nbytes for row in self.rows.values())
        for key in list(self.rows):
            if held <= MOST_BYTES or key in latest:
                break
            held -= self.rows.pop(key).nbytes
