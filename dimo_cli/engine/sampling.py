"""Sampling: one pass for a student, many for a teacher.

Every draw comes from the caller's generator, and no logits of a position outlive its chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dimo_cli.engine.masking import SCHEDULES, initial_tokens
from dimo_cli.engine.schedules import middle_mask_ratio, perturb_embeddings
from dimo_cli.errors import SpecError
from dimo_cli.specs.distill import InitSpec
from dimo_cli.teachers.protocol import Backbone, Cond, Teacher, Tokenizer, TokenSpace


def chunks(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` that cover `count` rows."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def filter_logits(
    logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 0.0
) -> Tensor:
    """Divide by the temperature, then keep the top k, then the smallest set of mass top_p."""
    logits = logits / temperature
    if top_k:
        kth = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p:
        ordered, order = logits.sort(descending=True)
        probs = ordered.softmax(-1)
        beyond = (probs.cumsum(-1) - probs) > top_p
        logits = logits.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)
    return logits


def gumbel(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise: adding it to logits and taking the argmax draws from their softmax."""
    exponential = torch.empty(shape, device=generator.device).exponential_(generator=generator)
    return -exponential.log()


def draw_tokens(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one token per distribution of logits [..., V] by the Gumbel-max trick."""
    return (logits.float() + gumbel(logits.shape, generator)).argmax(-1)


def guided_logits(
    backbone: Backbone, tokens: Tensor, cond: Cond, null: Cond, guidance: float
) -> Tensor:
    """z_u + s (z_c - z_u) with one doubled batch; a single conditional pass at s = 1."""
    if guidance == 1.0:
        return backbone(tokens, cond).float()
    logits = backbone(torch.cat([tokens, tokens]), Cond.cat([cond, null])).float()
    conditional, unconditional = logits.chunk(2)
    return unconditional + guidance * (conditional - unconditional)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Tokens of one pass and how sure the network was of them."""

    tokens: Tensor
    entropy: float = float("nan")
    top1: float = float("nan")


@torch.no_grad()
def draw_from_hidden(
    backbone: Backbone,
    hidden: Tensor,
    generator: torch.Generator,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 0.0,
    chunk_tokens: int = 8192,
    measure: bool = False,
) -> Drawn:
    """Draw tokens [B, L, G] from hidden states [B, L, D], a chunk of positions at a time.

    With `measure`, also the mean entropy (nats) and mean top-1 probability at temperature 1.
    """
    B, L, _ = hidden.shape
    flat = hidden.detach().flatten(0, 1)
    positions = torch.arange(L, device=flat.device).repeat(B)
    tokens, entropy, top1 = [], 0.0, 0.0
    for part in chunks(B * L, chunk_tokens):
        logits = backbone.head(flat[part], positions[part]).float()
        if measure:
            log_p = logits.log_softmax(-1)
            entropy -= (log_p.exp() * log_p).sum().item()
            top1 += log_p.amax(-1).exp().sum().item()
        tokens.append(draw_tokens(filter_logits(logits, temperature, top_k, top_p), generator))
    drawn = torch.cat(tokens).view(B, L, -1)
    if not measure:
        return Drawn(drawn)
    return Drawn(drawn, entropy / drawn.numel(), top1 / drawn.numel())


def student_hidden(
    backbone: Backbone, tokens: Tensor, cond: Cond, sigma: float, generator: torch.Generator
) -> Tensor:
    """The student's only pass: noisy token embeddings to hidden states [B, L, D]."""
    hidden = backbone.hidden(perturb_embeddings(backbone.embed(tokens), sigma, generator), cond)
    assert isinstance(hidden, Tensor)
    return hidden


def tokens_per_step(schedule: str, steps: int, total: int) -> list[int]:
    """How many tokens each step reveals: in shares of the schedule, none empty, all in all."""
    if steps > total:
        raise SpecError(
            f"{steps} steps are more than the {total} tokens of an image.",
            f"Use at most `--steps {total}`.",
        )
    if steps == 1:
        return [total]
    remaining = torch.linspace(1, 0, steps)
    ratio = SCHEDULES[schedule]
    shares = ratio(remaining) if schedule in ("cosine", "arccos") else 1 - ratio(remaining)
    counts = (shares / shares.sum() * total).round().clamp(min=1).long().tolist()
    counts[-1] += total - sum(counts)
    while counts[-1] < 1:  # many steps: the raised zeros must be taken from the largest shares
        counts[counts.index(max(counts))] -= 1
        counts[-1] += 1
    return counts


@torch.inference_mode()
def sample_student(
    backbone: Backbone,
    space: TokenSpace,
    tokenizer: Tokenizer,
    cond: Cond,
    init: InitSpec,
    generator: torch.Generator,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 0.0,
) -> Tensor:
    """One pass from x_init to tokens [B, L, G], ready to decode."""
    x_init, _ = initial_tokens(
        space,
        len(cond),
        middle_mask_ratio(init.mask_ratio),
        generator,
        init.control,
        init.control_token,
        tokenizer,
    )
    hidden = student_hidden(backbone, x_init, cond, init.embed_noise.sigma, generator)
    drawn = draw_from_hidden(
        backbone, hidden, generator, temperature=temperature, top_k=top_k, top_p=top_p
    )
    return drawn.tokens.clamp(max=space.codes - 1)


@torch.inference_mode()
def sample_teacher(
    teacher: Teacher,
    cond: Cond,
    generator: torch.Generator,
    *,
    steps: int,
    guidance: float = 1.0,
    temperature: float = 1.0,
    schedule: str = "arccos",
    order: str = "random",
    choice_temperature: float = 4.5,
) -> Tensor:
    """Fill an all-mask sequence in `steps` parallel steps; returns tokens [B, L, G].

    Each step draws every masked token from the teacher and keeps n of them for good: random ones,
    or the most confident by log p + choice_temperature (1 - i / (steps - 1)) Gumbel noise.
    """
    space = teacher.space
    batch, slots = len(cond), space.length * space.groups
    null = teacher.conditioner.null(batch).to(generator.device)
    tokens = torch.full((batch, slots), space.mask_id, device=generator.device)
    counts = tokens_per_step(schedule, steps, slots)
    for step, count in enumerate(counts):
        grid = tokens.view(batch, space.length, space.groups)
        logits = guided_logits(teacher.backbone, grid, cond, null, guidance).flatten(1, 2)
        logits = logits / temperature
        drawn = draw_tokens(logits, generator)
        score = gumbel(drawn.shape, generator)
        if order == "confidence":
            chosen = logits.log_softmax(-1).gather(-1, drawn[..., None]).squeeze(-1)
            progress = step / max(steps - 1, 1)
            score = chosen + choice_temperature * (1 - progress) * score
        score = score.masked_fill(tokens != space.mask_id, -torch.inf)
        keep = score.topk(count).indices
        tokens = tokens.scatter(-1, keep, drawn.gather(-1, keep))
    return tokens.view(batch, space.length, space.groups).clamp(max=space.codes - 1)
