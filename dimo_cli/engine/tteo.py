"""Test-time embedding optimization (Eq. 11): the input embeddings of one prompt, made better.

Every start is optimized as if it were alone: the objective is the sum over starts, and the
momentum of SGD is kept element by element. The best iterate of each start is kept, the first
included, so the outcome is never worse than best-of-N on the score that selects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dimo_cli.engine.input_noise import input_embeds
from dimo_cli.engine.one_step import student_input
from dimo_cli.engine.schedules import perturb_embeddings
from dimo_cli.specs.init import InitSpec
from dimo_cli.specs.tteo import TteoSpec
from dimo_cli.teachers.protocol import Backbone, Cond, Tokenizer, TokenSpace

Score = Callable[[Tensor], Tensor]
"""Images [N, 3, H, W] to the numbers [N] that are to rise."""

Iterates = tuple[Tensor, Tensor, Tensor]
"""Embeddings, images and scores of one iterate of every start."""


@dataclass(frozen=True)
class Optimized:
    """What came of N starts."""

    embeddings: Tensor
    """Input embeddings [N, L, D] of each start's best iterate: one pass makes its image again."""
    images: Tensor
    """Their images [N, 3, H, W], softly decoded."""
    scores: Tensor
    """Their scores [N]."""
    trace: Tensor
    """Scores of all iterates [K + 1, N]; of fewer where one scored enough."""
    best: int
    """The start with the highest score; the earlier one if two are equal."""


def start_embeddings(
    backbone: Backbone,
    space: TokenSpace,
    tokenizer: Tokenizer,
    init: InitSpec,
    count: int,
    generator: torch.Generator,
) -> Tensor:
    """The embeddings [N, L, D] that the student would start from."""
    tokens = student_input(space, tokenizer, init, count, generator)
    with torch.no_grad():
        embeds = input_embeds(backbone, tokens, generator)
        return perturb_embeddings(embeds, init.embed_noise.sigma, generator)


def token_probs(backbone: Backbone, embeddings: Tensor, cond: Cond, temperature: float) -> Tensor:
    """Probabilities [N, L, G, V] of the one-step generator for given input embeddings."""
    hidden = backbone.hidden(embeddings, cond)
    assert isinstance(hidden, Tensor)
    return (backbone.head(hidden).float() / temperature).softmax(-1)


def optimize_embeddings(
    backbone: Backbone,
    tokenizer: Tokenizer,
    cond: Cond,
    start: Tensor,
    score: Score,
    spec: TteoSpec,
    on_iterate: Callable[[Tensor], None] = lambda scores: None,
) -> Optimized:
    """Ascend the score of the softly decoded image from every start [N, L, D] at once."""
    embeddings, velocity, cond = start, torch.zeros_like(start), backbone.prepared(cond)
    kept: Iterates | None = None
    trace = []
    for iterate in range(spec.iterations + 1):
        last = iterate == spec.iterations
        embeddings = embeddings.detach().requires_grad_(not last)
        with torch.set_grad_enabled(not last):
            probs = token_probs(backbone, embeddings, cond, spec.temperature)
            images = tokenizer.decode_probs(probs, cond)
            scores = score(images)
        seen = scores.detach().float()
        here = (embeddings.detach(), images.detach(), seen)
        kept = here if kept is None else better(kept, here)
        trace.append(seen)
        on_iterate(seen)
        if last or (spec.stop_at is not None and float(kept[2].max()) >= spec.stop_at):
            break
        (gradient,) = torch.autograd.grad(scores.sum(), embeddings)
        gradient = clipped(gradient, spec.clip_norm)
        # Nesterov's momentum, as torch.optim.SGD has it: which takes seconds to import.
        velocity = spec.momentum * velocity + gradient
        embeddings = embeddings + spec.learning_rate * (gradient + spec.momentum * velocity)
    assert kept is not None
    return Optimized(*kept, torch.stack(trace), int(kept[2].argmax()))


def better(kept: Iterates, new: Iterates) -> Iterates:
    """The iterate with the higher score, start by start; the earlier one if two are equal."""
    improved = new[2] > kept[2]
    embeddings, images, scores = (
        torch.where(improved.view(-1, *[1] * (mine.dim() - 1)), theirs, mine)
        for mine, theirs in zip(kept, new, strict=True)
    )
    return embeddings, images, scores


def clipped(gradient: Tensor, limit: float | None) -> Tensor:
    """The gradient [N, L, D] with the norm of each start at most `limit`."""
    if limit is None:
        return gradient
    norms = gradient.flatten(1).norm(dim=1)
    return gradient * (limit / norms.clamp(min=limit))[:, None, None]


@torch.inference_mode()
def render(
    backbone: Backbone, tokenizer: Tokenizer, cond: Cond, embeddings: Tensor, spec: TteoSpec
) -> Tensor:
    """The images of input embeddings, in one pass: of the soft codes or of the likeliest ones."""
    probs = token_probs(backbone, embeddings, cond, spec.temperature)
    if spec.decode == "soft":
        return tokenizer.decode_probs(probs, cond)
    return tokenizer.decode(probs.argmax(-1), cond)
