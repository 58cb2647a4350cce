"""From gradients at logits back through head and backbone, a chunk of positions at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dimo_cli.engine.divergence import surrogate_loss, surrogate_loss_through
from dimo_cli.engine.draws import chunks
from dimo_cli.teachers.protocol import Backbone


@dataclass(frozen=True, slots=True)
class HeadRows:
    """Rows [n, D] of hidden states before a backbone's head, and where each comes from."""

    backbone: Backbone
    hidden: Tensor
    positions: Tensor

    def logits(self) -> Tensor:
        """Their logits [n, G, V]."""
        return self.backbone.head(self.hidden, self.positions)

    def surrogate_loss(self, gradient: Tensor) -> Tensor:
        """A scalar whose gradient at the logits is `gradient` [n, G, V].

        The logits are not needed for that, and where the head ends in a matrix there are none.
        """
        last = self.backbone.last_linear(self.hidden)
        if last is None:
            return surrogate_loss(self.logits(), gradient)
        return surrogate_loss_through(last, gradient.flatten(-2))


def backward_through_head(
    backbone: Backbone,
    hidden: Tensor,
    rows: Tensor,
    chunk_tokens: int,
    loss_of: Callable[[HeadRows, slice], Tensor],
) -> Tensor:
    """Backpropagate the sum of chunk losses through head and backbone; returns that sum."""
    total, gradient = backward_to_hidden(backbone, hidden, rows, chunk_tokens, loss_of)
    hidden.backward(gradient)
    return total


def backward_to_hidden(
    backbone: Backbone,
    hidden: Tensor,
    rows: Tensor,
    chunk_tokens: int,
    loss_of: Callable[[HeadRows, slice], Tensor],
) -> tuple[Tensor, Tensor]:
    """Backpropagate the sum of chunk losses through the head: that sum, and the gradient [B, L, D].

    hidden [B, L, D]; rows [N] are positions of its flat form [B L, D]. `loss_of(head, part)` is
    the loss at rows[part]; logits exist if it asks for them, and do not outlive their chunk.
    """
    length = hidden.shape[1]
    flat = hidden.detach().flatten(0, 1)
    gradient = torch.zeros_like(flat)
    total = flat.new_zeros((), dtype=torch.float32)
    for part in chunks(len(rows), chunk_tokens):
        picked = flat.index_select(0, rows[part]).requires_grad_()
        loss = loss_of(HeadRows(backbone, picked, rows[part] % length), part)
        loss.backward()
        assert picked.grad is not None
        gradient.index_copy_(0, rows[part], picked.grad)
        total += loss.detach()
    return total, gradient.view_as(hidden)
