"""Tokens as bits: +1 where a bit is set and -1 where it is not, the lowest bit first."""

from __future__ import annotations

import torch
from torch import Tensor

from dimo_cli.teachers.expectation import expected


def signs_of(tokens: Tensor, bits: int) -> Tensor:
    """The sign bits [..., bits] of tokens [...], as integers."""
    places = torch.arange(bits, device=tokens.device)
    return 2 * (tokens[..., None] >> places & 1) - 1


def tokens_of(is_set: Tensor) -> Tensor:
    """The tokens [...] whose set bits [..., bits] are true."""
    places = torch.arange(is_set.shape[-1], device=is_set.device)
    return (is_set.long() << places).sum(-1)


def expected_signs(probs: Tensor, bits: int) -> Tensor:
    """The expectation [..., bits] of the sign bits under probabilities [..., 2^bits].

    Both networks see a token as a linear map of its sign bits, so this expectation is all that
    Eq. 3 needs, and it needs the groups' marginals alone: V terms a group instead of V^G.
    """
    every_token = torch.arange(probs.shape[-1], device=probs.device)
    return expected(probs, signs_of(every_token, bits).to(probs.dtype))
