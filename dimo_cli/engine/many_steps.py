"""Sampling a teacher in many steps: parallel decoding by a plan, and the theta-trapezoidal method.

Only positions with a masked slot are projected to the vocabulary, a chunk at a time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

from dimo_cli.engine.draws import chunks
from dimo_cli.engine.one_step import CHUNK_TOKENS, gumbel
from dimo_cli.teachers.plans import SCHEDULES, check_steps, mask_progress
from dimo_cli.teachers.protocol import Backbone, Cond, Step, Teacher, TokenSpace

Watch = Callable[[Tensor, Tensor], None]
"""Told after each step: what was drawn, tokens [B, L, G], and which of these slots stay masked."""
Look = Callable[[Tensor, Cond], Tensor]
"""A pass over tokens [B, L, G] under conditions, to hidden states [B, L, D]."""


def guided_head(
    backbone: Backbone,
    tokens: Tensor,
    cond: Cond,
    null: Cond,
    guidance: float,
    look: Look | None = None,
) -> Callable[[Tensor], Tensor]:
    """z_u + s (z_c - z_u) of flat rows [n], after one pass over tokens [B, L, G].

    The pass is over both halves at once, or over the conditional half alone at s = 1. It is a
    teacher's, or that of `look`.
    """
    length = tokens.shape[1]
    guided = guidance != 1.0
    if guided:
        tokens, cond = torch.cat([tokens, tokens]), Cond.cat([cond, null])
    hidden = look(tokens, cond) if look else backbone.hidden(backbone.embed(tokens), cond)
    assert isinstance(hidden, Tensor)
    flat = hidden.flatten(0, 1)

    def project(rows: Tensor) -> Tensor:
        conditional = backbone.head(flat[rows], rows % length).float()
        if not guided:
            return conditional
        unconditional = backbone.head(flat[rows + len(flat) // 2], rows % length).float()
        return unconditional + guidance * (conditional - unconditional)

    return project


def both_conditions(teacher: Teacher, cond: Cond, device: torch.device) -> tuple[Cond, Cond]:
    """A condition and the null one as often, with what all steps see of them alike."""
    null = teacher.backbone.prepared(teacher.conditioner.null(1).to(device))
    return teacher.backbone.prepared(cond), null.times(len(cond))


def draw_with_scores(
    logits: Tensor, step: Step, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw tokens from logits [..., V] as a step says, with the scores that choose among them."""
    logits = logits / step.temperature
    noisy = logits
    if step.token_noise:
        noisy = logits + step.token_noise * gumbel(logits.shape, generator)
    drawn = noisy.argmax(-1)
    scores = token_scores(logits, drawn, step)
    if step.choice == "random":
        scores = torch.rand(drawn.shape, generator=generator, device=drawn.device)
    if step.choice_noise:
        scores = scores + step.choice_noise * gumbel(drawn.shape, generator)
    return drawn, scores


def token_scores(logits: Tensor, drawn: Tensor, step: Step) -> Tensor:
    """What the network thinks of the drawn tokens, before any noise."""
    if step.choice == "logit":
        return logits.gather(-1, drawn[..., None]).squeeze(-1)
    if step.choice in ("random", "halton", "rolled_halton"):  # not the network's to decide
        return torch.zeros(drawn.shape, device=drawn.device)
    log_prob = logits.log_softmax(-1).gather(-1, drawn[..., None]).squeeze(-1)
    return log_prob.exp() if step.choice == "prob" else log_prob


def reveal(
    tokens: Tensor, masked: Tensor, drawn: Tensor, scores: Tensor, masked_after: int, mask_id: int
) -> tuple[Tensor, Tensor]:
    """Keep the drawn tokens with the highest scores, so that `masked_after` slots stay masked.

    All tensors are [B, slots]; what was revealed before is never touched again. A slot counts as
    revealed even where the mask id itself was drawn.
    """
    lowest_first = scores.masked_fill(~masked, torch.inf).argsort(-1)
    still_masked = torch.zeros_like(masked).scatter_(-1, lowest_first[:, :masked_after], True)
    tokens = torch.where(masked, drawn, tokens).masked_fill(still_masked, mask_id)
    return tokens, still_masked


def radical_inverse(index: int, base: int) -> Fraction:
    """The digits of `index` mirrored behind the point: one coordinate of a Halton sequence.

    It is exact: a third of 24 columns is the eighth, and in floating point might be the seventh.
    """
    numerator, denominator = 0, 1
    while index:
        index, digit = divmod(index, base)
        numerator, denominator = numerator * base + digit, denominator * base
    return Fraction(numerator, denominator)


def halton_ranks(space: TokenSpace) -> Tensor:
    """The place of every position [L] in Halton's order: base 2 for rows, base 3 for columns.

    Points of the sequence fall into cells of the grid; a cell's place is when it is first hit. In
    1-D positions take the place of rows.
    """
    rows, columns = space.grid or (space.length, 1)
    first_hit: dict[int, int] = {}
    index = 0
    while len(first_hit) < rows * columns:
        index += 1
        row = int(radical_inverse(index, 2) * rows)
        column = int(radical_inverse(index, 3) * columns)
        first_hit.setdefault(row * columns + column, len(first_hit))
    return torch.tensor([first_hit[position] for position in range(rows * columns)])


def revealing_ranks(plan: list[Step], space: TokenSpace, rolls: Tensor) -> Tensor:
    """The place of every position [B, L] in the order of a plan; all zero where it has none.

    A sample whose order is rolled by k begins k positions before the end of the common order, and
    goes on at its beginning (Besnier et al., 2025).
    """
    if plan[0].choice not in ("halton", "rolled_halton"):
        return torch.zeros(len(rolls), space.length, device=rolls.device)
    ranks = halton_ranks(space).to(rolls.device)
    return (ranks + rolls[:, None]) % space.length


def draw_rolls(plan: list[Step], batch: int, length: int, generator: torch.Generator) -> Tensor:
    """By how much the order of each sample [B] is rolled; nothing is drawn where it is not."""
    if plan[0].choice != "rolled_halton":
        return torch.zeros(batch, dtype=torch.long, device=generator.device)
    return torch.randint(length, (batch,), generator=generator, device=generator.device)


@torch.inference_mode()
def sample_by_plan(
    teacher: Teacher,
    cond: Cond,
    plan: list[Step],
    generator: torch.Generator,
    temperature: float = 1.0,
    watch: Watch | None = None,
    start: Tensor | None = None,
    look: Look | None = None,
) -> Tensor:
    """Fill an all-mask sequence step by step; returns tokens [B, L, G], ready to decode.

    From a `start` [B, L, G] its tokens stand in the places of masks, until others are chosen.
    `look` is how a student looks at its tokens, where the network is one.
    """
    space, batch = teacher.space, len(cond)
    slots = space.length * space.groups
    cond, null = both_conditions(teacher, cond, generator.device)
    blank = torch.full((batch, slots), space.mask_id, device=generator.device)
    blank = tokens = blank if start is None else start.flatten(1)
    masked = torch.ones_like(tokens, dtype=torch.bool)
    rolls = draw_rolls(plan, batch, space.length, generator)
    order = -revealing_ranks(plan, space, rolls).repeat_interleave(space.groups, dim=1).float()
    for step in plan:
        grid = tokens.view(batch, space.length, space.groups)
        at = (cond.at(step.time), null.at(step.time))
        project = guided_head(teacher.backbone, grid, *at, step.guidance, look)
        rows = masked.view(-1, space.groups).any(-1).nonzero().squeeze(-1)
        drawn = tokens.view(-1, space.groups).clone()
        scores = torch.zeros(drawn.shape, device=drawn.device)
        for part in chunks(len(rows), CHUNK_TOKENS):
            logits = project(rows[part]) / temperature
            drawn[rows[part]], scores[rows[part]] = draw_with_scores(logits, step, generator)
        all_scores, drawn = scores.view(batch, slots) + order, drawn.view(batch, slots)
        seen = torch.where(masked, drawn, tokens)
        tokens, masked = reveal(tokens, masked, drawn, all_scores, step.masked_after, space.mask_id)
        if start is not None:
            tokens = torch.where(masked, blank, tokens)
        if watch is not None:
            watch(seen.view_as(grid).clamp(max=space.codes - 1), masked.view_as(grid))
    return tokens.view(batch, space.length, space.groups).clamp(max=space.codes - 1)


@torch.inference_mode()
def sample_theta_trapezoidal(
    teacher: Teacher,
    cond: Cond,
    generator: torch.Generator,
    *,
    steps: int,
    guidance: float,
    schedule: str,
    theta: float = 0.5,
    temperature: float = 1.0,
) -> Tensor:
    """The theta-trapezoidal method (Ren et al., 2025): two network passes a step, second order.

    Time is -log of the mask ratio, in which every masked slot is revealed at rate 1 and a step from
    m to m' lasts log(m / m'). A step first leaps theta of its length at the rates of its start p;
    the rest at (a1 p' - a2 p)+ with the rates p' seen there. The last step, of infinite length,
    draws what is left.
    """
    check_steps(steps, teacher.space.length * teacher.space.groups)
    space, batch = teacher.space, len(cond)
    cond, null = both_conditions(teacher, cond, generator.device)
    tokens = torch.full((batch, space.length, space.groups), space.mask_id, device=generator.device)
    masked = torch.ones_like(tokens, dtype=torch.bool)
    ratios = [*SCHEDULES[schedule](mask_progress(schedule, steps)).tolist()[:-1], 0.0]

    def rates() -> Callable[[Tensor], Tensor]:
        project = guided_head(teacher.backbone, tokens, cond, null, guidance)
        return lambda rows: (project(rows) / temperature).softmax(-1)

    def leap(rate_of: Callable[[Tensor], Tensor], duration: float) -> None:
        """Reveal each masked slot with probability 1 - exp(-duration x its total rate)."""
        nonlocal tokens, masked
        rows = masked.flatten(0, 1).any(-1).nonzero().squeeze(-1)
        flat, still = tokens.flatten(0, 1).clone(), masked.flatten(0, 1).clone()
        for part in chunks(len(rows), CHUNK_TOKENS):
            rate = rate_of(rows[part])
            total = rate.sum(-1)
            u = torch.rand(total.shape, generator=generator, device=total.device)
            jumps = (u < -torch.expm1(-duration * total)) & still[rows[part]]
            drawn = (rate.log() + gumbel(rate.shape, generator)).argmax(-1)
            flat[rows[part]] = torch.where(jumps, drawn, flat[rows[part]])
            still[rows[part]] &= ~jumps
        tokens, masked = flat.view_as(tokens), still.view_as(masked)

    for before, after in itertools.pairwise(ratios):
        start = rates()
        if after <= 0:
            leap(start, math.inf)
            break
        duration = math.log(before / after)
        leap(start, theta * duration)
        leap(extrapolated(start, rates(), theta), (1 - theta) * duration)
    return tokens.clamp(max=space.codes - 1)


def extrapolated(
    start: Callable[[Tensor], Tensor], middle: Callable[[Tensor], Tensor], theta: float
) -> Callable[[Tensor], Tensor]:
    """(a1 p' - a2 p)+ with a1 - a2 = 1: the rates of the second half of a trapezoidal step."""
    a1 = 1 / (2 * theta * (1 - theta))
    a2 = ((1 - theta) ** 2 + theta**2) / (2 * theta * (1 - theta))
    return lambda rows: (a1 * middle(rows) - a2 * start(rows)).clamp(min=0)
