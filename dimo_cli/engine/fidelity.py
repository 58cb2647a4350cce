"""How faithful soft embeddings are: what they change of the image, and how sure the student is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dimo_cli.engine.one_step import draw_tokens
from dimo_cli.engine.relax import relaxed
from dimo_cli.teachers.protocol import Cond, Tokenizer, TokenSpace


@dataclass(frozen=True, slots=True)
class Fidelity:
    """The numbers of Soft-Di[M]O's I.2, I.13 and I.14; errors are of images in [0, 1]."""

    soft_vs_sampled: float
    """Mean squared error between the soft image and that of drawn tokens."""
    soft_vs_argmax: float
    """The same against the likeliest tokens."""
    entropy: float
    """Mean entropy of a slot, in nats."""
    top1: float
    """Mean probability of a slot's likeliest token."""
    tokenizer: float | None = None
    """What the tokenizer itself loses of real images: the yardstick."""


def image_error(first: Tensor, second: Tensor) -> float:
    """Mean squared error of images in [-1, 1], measured on [0, 1] as they are seen."""
    return (first.clamp(-1, 1) - second.clamp(-1, 1)).div(2).square().mean().item()


def embedding_covariance_trace(probs: Tensor, table: Tensor) -> Tensor:
    """tr Sigma [...] of embeddings [V, D] under probabilities [..., V] (Eq. 19).

    The ||Sigma|| of Lemma G.3 is this trace: its proof sets it equal to E ||e_j - mu||^2.
    """
    probs, table = probs.double(), table.double()  # the difference of two large numbers
    mean = probs @ table
    return (probs @ table.square().sum(-1) - mean.square().sum(-1)).clamp(min=0)


@torch.no_grad()
def measure_fidelity(
    tokenizer: Tokenizer,
    space: TokenSpace,
    logits: Tensor,
    generator: torch.Generator,
    *,
    cond: Cond | None = None,
    images: Tensor | None = None,
    temperature: float = 1.0,
) -> Fidelity:
    """Compare the soft images of a student's logits [B, L, G, V] with those of its tokens.

    `temperature` is that of the soft embeddings (Fig. 8); tokens are always drawn at 1. With real
    `images` [B, 3, H, W], also measure the tokenizer.
    """
    log_p = logits.float().log_softmax(-1)
    soft = tokenizer.decode_probs(relaxed("soft", logits, generator, temperature), cond)
    sampled, likeliest = (
        tokenizer.decode(tokens.clamp(max=space.codes - 1), cond)
        for tokens in (draw_tokens(logits, generator), logits.argmax(-1))
    )
    return Fidelity(
        soft_vs_sampled=image_error(soft, sampled),
        soft_vs_argmax=image_error(soft, likeliest),
        entropy=-(log_p.exp() * log_p).sum(-1).mean().item(),
        top1=log_p.amax(-1).exp().mean().item(),
        tokenizer=None if images is None else tokenizer_error(tokenizer, images, cond),
    )


@torch.no_grad()
def tokenizer_error(tokenizer: Tokenizer, images: Tensor, cond: Cond | None = None) -> float:
    """What encoding and decoding loses of images in [-1, 1]."""
    return image_error(tokenizer.decode(tokenizer.encode(images), cond), images)
