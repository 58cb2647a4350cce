"""The soft embedding of a tokenizer: a mean over all codes, in full precision."""

from __future__ import annotations

import torch
from torch import Tensor


def expected(probs: Tensor, table: Tensor) -> Tensor:
    """The mean [..., C] of the rows [V, C], or [...] of numbers [V], by probabilities [..., V].

    A sum over thousands of small probabilities is not for half precision, whatever autocast says.
    """
    with torch.autocast(probs.device.type, enabled=False):
        return probs.to(table.dtype) @ table
