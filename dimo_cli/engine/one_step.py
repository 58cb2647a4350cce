"""Sampling a student in one pass or a few, and the draws that all sampling is made of.

Every draw comes from the caller's generator, and no logits of a position outlive its chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dimo_cli.engine.draws import Source, chunks, exponential, sourced_chunks, uniform
from dimo_cli.engine.fused import fused
from dimo_cli.engine.input_noise import input_embeds
from dimo_cli.engine.masking import initial_tokens
from dimo_cli.engine.rollout import ONE_STEP, Start
from dimo_cli.engine.schedules import middle_mask_ratio, perturb_embeddings
from dimo_cli.errors import NotFinite
from dimo_cli.specs.init import InitSpec
from dimo_cli.teachers.protocol import LATENT, Backbone, Cond, Tokenizer, TokenSpace

CHUNK_TOKENS = 8192  # positions whose logits exist at a time
CHUNK_LOGITS = 2**21  # and how many of these at most, where training chooses
CARD_LOGITS = 3 * 2**22  # the same on a card, which small chunks leave without work


def rows_at_once(space: TokenSpace, on_card: bool = False) -> int:
    """Positions whose logits make a chunk: as many as keep a CPU's cache, or a card, well fed."""
    row = space.groups * space.vocab
    if on_card:
        return max(1, CARD_LOGITS // row)
    return max(1, min(CHUNK_TOKENS, CHUNK_LOGITS // row))


def filter_logits(
    logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 0.0
) -> Tensor:
    """Divide by the temperature, then keep the top k, then the smallest set of mass top_p."""
    if temperature == 1 and not top_k and not top_p:
        return logits
    logits = logits.float()
    logits = logits if temperature == 1 else logits / temperature
    if top_k:
        kth = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p:
        ordered, order = logits.sort(descending=True)
        probs = ordered.softmax(-1)
        beyond = (probs.cumsum(-1) - probs) > top_p
        logits = logits.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)
    return logits


def gumbel(shape: torch.Size, generator: Source) -> Tensor:
    """Standard Gumbel noise: adding it to logits and taking the argmax draws from their softmax."""
    return exponential(shape, generator).log_().neg_()


def draw_tokens(logits: Tensor, generator: Source) -> Tensor:
    """Draw one token per distribution of logits [..., V] by the Gumbel-max trick."""
    return _gumbel_max(exponential(logits.shape, generator).to(logits.device), logits)


@fused
def _gumbel_max(exponentials: Tensor, logits: Tensor) -> Tensor:
    """The places [...] of the largest logits with the noise -log E."""
    return exponentials.log_().neg_().add_(logits.float()).argmax(-1)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Tokens of one pass and how sure the network was of them."""

    tokens: Tensor
    entropy: Tensor | None = None
    top1: Tensor | None = None
    is_sound: Tensor | None = None
    """Whether every position had a likeliest token: none has among logits that are NaN."""


@torch.no_grad()
def draw_from_hidden(
    backbone: Backbone,
    hidden: Tensor,
    generator: Source,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 0.0,
    chunk_tokens: int = CHUNK_TOKENS,
    measure: bool = False,
    check: bool = False,
    settled: Tensor | None = None,
) -> Drawn:
    """Draw tokens [B, L, G] from hidden states [B, L, D], a chunk of positions at a time.

    With `measure`, also the mean entropy (nats) and mean top-1 probability at temperature 1, of
    slots that are not `settled` [B, L, G]; with `check`, also whether the logits can be drawn from.
    """
    B, L, _ = hidden.shape
    flat = hidden.detach().flatten(0, 1)
    positions = torch.arange(L, device=flat.device).repeat(B)
    tokens = []
    entropy, top1 = flat.new_zeros((2,), dtype=torch.float64)
    sound = []

    def row() -> torch.Size:
        return backbone.head(flat[:1], positions[:1]).shape[1:]

    for part, source in sourced_chunks(B * L, chunk_tokens, generator, row):
        logits = backbone.head(flat[part], positions[part])
        if measure:
            log_p = logits.float().log_softmax(-1)
            if settled is not None:
                log_p = log_p[~settled.flatten(0, 1)[part]]
            entropy -= (log_p.exp() * log_p).sum()
            top1 += log_p.amax(-1).exp().sum()
        if check:
            sound.append(logits.amax(-1).isfinite().all())
        tokens.append(draw_tokens(filter_logits(logits, temperature, top_k, top_p), source))
    drawn = torch.cat(tokens).view(B, L, -1)
    is_sound = torch.stack(sound).all() if check else None
    if not measure:
        return Drawn(drawn, is_sound=is_sound)
    counted = drawn.numel() if settled is None else (~settled).sum()
    return Drawn(drawn, entropy / counted, top1 / counted, is_sound)


def token_noise(space: TokenSpace, count: int, generator: torch.Generator) -> Tensor:
    """The noise [B, L, G, V] of `draw_from_hidden` for whole images, draw for draw."""
    parts = [
        gumbel(torch.Size((part.stop - part.start, space.groups, space.vocab)), generator)
        for part in chunks(count * space.length, CHUNK_TOKENS)
    ]
    return torch.cat(parts).view(count, space.length, space.groups, space.vocab)


def student_hidden(
    backbone: Backbone, tokens: Tensor, cond: Cond, sigma: float, generator: Source
) -> Tensor:
    """A pass of the student: noisy token embeddings to hidden states [B, L, D]."""
    hidden = backbone.hidden(*seen_by_student(backbone, tokens, cond, sigma, generator))
    assert isinstance(hidden, Tensor)
    return hidden


def seen_by_student(
    backbone: Backbone, tokens: Tensor, cond: Cond, sigma: float, generator: Source
) -> tuple[Tensor, Cond]:
    """Embeddings [B, L, D] of a student's input with all its noise, and the condition."""
    embeds = perturb_embeddings(input_embeds(backbone, tokens, generator), sigma, generator)
    return embeds, with_drawn_latent(backbone, cond, generator)


def with_drawn_latent(backbone: Backbone, cond: Cond, generator: Source) -> Cond:
    """The condition with a latent ~ U[0, 1] for each sample, for a network that reads one."""
    if not backbone.has_latent:
        return cond
    latent = uniform((len(cond),), generator).to(cond.device)
    return Cond({**cond.tensors, LATENT: latent}, cond.texts)


def student_input(
    space: TokenSpace,
    tokenizer: Tokenizer,
    init: InitSpec,
    count: int,
    generator: torch.Generator,
    source: Tensor | None = None,
) -> Tensor:
    """x_init [B, L, G] of a finished student; `source` takes the place of its random tokens."""
    tokens, _ = initial_tokens(
        space,
        count,
        middle_mask_ratio(init.mask_ratio),
        generator,
        init.control,
        init.control_token,
        tokenizer,
        source,
    )
    return tokens


@torch.inference_mode()
def sample_student(
    backbone: Backbone,
    space: TokenSpace,
    x_init: Tensor,
    cond: Cond,
    sigma: float,
    generator: torch.Generator,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 0.0,
    plan: Sequence[int] = ONE_STEP,
) -> Tensor:
    """From x_init to tokens [B, L, G], ready to decode, in one pass or as many as a plan has.

    `sigma` is the noise on the embeddings, `plan` how many slots are open after each pass. All
    noise is drawn where the generator is, which may be another device than the network's.
    """
    start = Start(x_init.to(cond.device))
    if len(plan) > 1:  # several passes share what they see of the condition
        cond = backbone.prepared(cond)
    for still_open in plan:
        hidden = student_hidden(backbone, start.tokens, cond, sigma, generator)
        drawn = draw_from_hidden(
            backbone,
            hidden,
            generator,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            check=True,
        )
        if not drawn.is_sound:
            raise nothing_to_draw_from()
        if not still_open:
            break
        start = start.after(drawn.tokens, still_open, space.mask_id, generator)
    return start.filled(drawn.tokens).clamp(max=space.codes - 1)


def nothing_to_draw_from() -> NotFinite:
    """The sentence for a student whose logits are not finite."""
    return NotFinite(
        "What this student computes is not finite: there is nothing to draw from.",
        "Its weights are too large, as after a training that diverged. Where only half "
        "precision overflows, `--precision fp32` helps.",
    )
