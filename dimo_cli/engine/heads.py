"""From gradients at logits back through head and backbone, a chunk of positions at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dimo_cli.engine.draws import chunks
from dimo_cli.teachers.protocol import Backbone, LastLinear


@dataclass(slots=True)
class HeadRows:
    """Rows [n, D] of hidden states before a backbone's head, and where each comes from."""

    backbone: Backbone
    hidden: Tensor
    positions: Tensor
    formed: Tensor | None = None
    """Their logits, once somebody has asked for them."""

    def logits(self) -> Tensor:
        """Their logits [n, G, V]."""
        if self.formed is None:
            self.formed = self.backbone.head(self.hidden, self.positions)
        return self.formed

    def backward(self, gradient: Tensor) -> None:
        """Give hidden states and head what a gradient at the logits [n, G, V] is to them.

        The logits are not needed for that, and where the head ends in a matrix there are none.
        """
        last = self.backbone.last_linear(self.hidden) if self.formed is None else None
        if last is None:
            self.logits().backward(gradient)
        else:
            backward_through_linear(last, gradient.flatten(-2))


def backward_through_linear(last: LastLinear, gradient: Tensor) -> None:
    """Backpropagate a gradient [n, V] at what a linear map would make, and need not.

    It is rounded as the map's products are: to the precision of autocast, where there is one.
    """
    features, weight, bias = last.features, last.weight, last.bias
    device = features.device.type
    precision = features.dtype
    if torch.is_autocast_enabled(device):
        precision = torch.get_autocast_dtype(device)
    rounded = gradient.to(precision)
    asked: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        if features.requires_grad:
            asked.append((features, (rounded @ weight.to(precision)).to(features.dtype)))
        if weight.requires_grad:
            asked.append((weight, (rounded.T @ features.to(precision)).to(weight.dtype)))
        if bias is not None and bias.requires_grad:
            asked.append((bias, rounded.sum(0).to(bias.dtype)))
    tensors, gradients = zip(*asked, strict=True)
    torch.autograd.backward(tensors, gradients)


Ask = Callable[[HeadRows, slice], Tensor]
"""The gradient at the logits [n, G, V] of some rows of a pass."""


def backward_through_head(
    backbone: Backbone, hidden: Tensor, rows: Tensor, chunk_tokens: int, ask: Ask
) -> None:
    """Backpropagate what is asked of the logits at some rows, through head and backbone."""
    hidden.backward(backward_to_hidden(backbone, hidden, rows, chunk_tokens, ask))


def backward_to_hidden(
    backbone: Backbone, hidden: Tensor, rows: Tensor, chunk_tokens: int, ask: Ask
) -> Tensor:
    """Backpropagate what is asked of the logits through the head: the gradient [B, L, D].

    hidden [B, L, D]; rows [N] are positions of its flat form [B L, D]. `ask(head, part)` is the
    gradient at rows[part]; logits exist if it asks for them, and do not outlive their chunk.
    """
    flat = hidden.detach().flatten(0, 1)
    gradient = torch.zeros_like(flat)
    positions = rows % hidden.shape[1]
    for part in chunks(len(rows), chunk_tokens):
        here = rows[part]
        picked = flat.index_select(0, here).requires_grad_()
        head = HeadRows(backbone, picked, positions[part])
        head.backward(ask(head, part))
        assert picked.grad is not None
        gradient.index_copy_(0, here, picked.grad)
    return gradient.view_as(hidden)
