"""The entropy bonus (supplement E.14): the student is to stay as unsure as it may."""

from __future__ import annotations

import torch
from torch import Tensor

from dimo_cli.engine.divergence import entropy_logit_gradient
from dimo_cli.engine.heads import HeadRows, backward_to_hidden
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.teachers.protocol import Backbone, TokenSpace


def ask_entropy_bonus(
    student: Backbone,
    hidden: Tensor,
    spec: DistillSpec,
    space: TokenSpace,
    chunk_tokens: int,
    kept: Tensor | None = None,
) -> Tensor:
    """What raises the entropy of p_theta(x_init), asked of hidden states [B, L, D].

    It is reduced as the divergence, and the head gets its share. Slots that are `kept` [B, L, G]
    from an earlier step are left alone.
    """
    B, L, _ = hidden.shape
    divisor = {
        "sum": 1,
        "masked_mean": L * space.groups,
        "mean": L * space.groups * space.vocab,
    }[spec.loss.reduction]
    scale = spec.loss.entropy_bonus / (B * spec.train.accumulate * divisor)

    def ask(head: HeadRows, part: slice) -> Tensor:
        gradient = -scale * entropy_logit_gradient(head.logits().detach().float())
        if kept is not None:
            gradient = gradient.masked_fill(kept.flatten(0, 1)[part][..., None], 0)
        return gradient

    rows = torch.arange(B * L, device=hidden.device)
    return backward_to_hidden(student, hidden, rows, chunk_tokens, ask)
