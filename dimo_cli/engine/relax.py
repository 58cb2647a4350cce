"""Gradients through discrete tokens: three estimators behind one interface.

What is to be improved is E[f(tokens)] under the student's own distribution (Eq. 4 of Soft-Di[M]O).
Drawing tokens stops every gradient, so either the tokens are relaxed into weights of embeddings
(`soft`, `gumbel_st`), or the probability of what was drawn is moved instead (`reinforce`).

Shapes: B batch, V classes of a slot; `logits` are [B, ..., V] with one distribution per slot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from dimo_cli.engine.draws import Source
from dimo_cli.engine.one_step import draw_tokens, gumbel

Estimator = Literal["soft", "gumbel_st", "reinforce"]


def relaxed(kind: Estimator, logits: Tensor, generator: Source, temperature: float = 1.0) -> Tensor:
    """Weights [..., V] to put into `embed_probs` or `decode_probs`, in float32 at least.

    soft: the probabilities themselves, so that embeddings become their expectation (Eq. 3).
    gumbel_st: a drawn one-hot, whose gradient is that of the Gumbel-softmax (Eq. 14 and 15), where
    alone the temperature counts: the draw itself is always at 1.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if kind == "soft":
        return (logits / temperature).softmax(-1)
    if kind == "gumbel_st":
        noisy = logits + gumbel(logits.shape, generator)
        soft = (noisy / temperature).softmax(-1)
        return one_hots(noisy.argmax(-1), soft) + (soft - soft.detach())
    raise ValueError(f"`{kind}` has no relaxation")


def one_hots(tokens: Tensor, like: Tensor) -> Tensor:
    """Tokens [...] as certain distributions [..., V], of the V and the type of `like`."""
    zeros = torch.zeros((*tokens.shape, like.shape[-1]), dtype=like.dtype, device=like.device)
    return zeros.scatter_(-1, tokens[..., None], 1)


def estimate(
    kind: Estimator,
    logits: Tensor,
    objective: Callable[[Tensor], Tensor],
    generator: Source,
    temperature: float = 1.0,
    baseline: Tensor | float | None = None,
) -> tuple[Tensor, Tensor]:
    """A scalar whose gradient estimates that of sum_b E[objective_b] (Eq. 4), and the values [B].

    `objective` maps weights [B, ..., V] to one value a sample. `baseline` is for `reinforce` alone.
    Soft embeddings are biased to second order (Eq. 5), straight-through to first order (Eq. 6), the
    score function (Eq. 13) not at all.
    """
    if kind == "reinforce":
        return score_function(logits / temperature, objective, generator, baseline)
    if baseline is not None:
        raise ValueError(f"`{kind}` has no use for a baseline")
    values = per_sample(objective(relaxed(kind, logits, generator, temperature)), logits)
    return values.sum(), values.detach()


def per_sample(values: Tensor, logits: Tensor) -> Tensor:
    """Values [B], refused if an objective averaged over its samples."""
    if values.shape != logits.shape[:1]:
        raise ValueError(f"an objective gives one value a sample, not {tuple(values.shape)}")
    return values


def score_function(
    logits: Tensor,
    objective: Callable[[Tensor], Tensor],
    generator: Source,
    baseline: Tensor | float | None = None,
) -> tuple[Tensor, Tensor]:
    """REINFORCE (Eq. 13): f(tokens) - baseline times the gradient of log p(tokens).

    Without a baseline, each sample gets the mean value of all others, which leaves no bias.
    """
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    with torch.no_grad():
        tokens = draw_tokens(log_p, generator)
        values = per_sample(objective(one_hots(tokens, log_p)), logits)
        if baseline is None:
            baseline = leave_one_out_mean(values) if len(values) > 1 else 0.0
        advantage = values - baseline
    log_p_drawn = log_p.gather(-1, tokens[..., None]).flatten(1).sum(-1)
    return (advantage * log_p_drawn).sum(), values


def leave_one_out_mean(values: Tensor) -> Tensor:
    """For each of the values [B], the mean of all others."""
    return (values.sum() - values) / (len(values) - 1)
