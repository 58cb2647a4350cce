"""SDTT (arXiv 2410.21035): two steps of a teacher become one of the student, round after round.

Of an image each slot is masked with probability (1 - 1e-3) t, t ~ U[1e-5, 1]. From there the
teacher takes two ancestral steps of length dt, which reveal a masked slot with probability
(t - s) / t. The target of a slot is what the teacher said in the step that revealed it, and in the
second one where none did. The student learns it at once, at masked slots:

    KL(p || target),   with the gradient  p (d - <p, d>),  d = log p - log target.

With every round dt doubles, and the student as it is then becomes the teacher. The mean over what
the teacher may draw makes the optimum a geometric mean of targets, not the teacher's joint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dimo_cli.engine.clean import CleanTokens, check_starts_masked, drawings_of, needs_of
from dimo_cli.engine.draws import sourced_chunks, uniform
from dimo_cli.engine.field import TeacherAt, guided, log_probs
from dimo_cli.engine.heads import HeadRows, backward_through_head
from dimo_cli.engine.lora import trained_part
from dimo_cli.engine.objective import PassObjective, Run
from dimo_cli.engine.one_step import draw_tokens, seen_by_student, student_hidden
from dimo_cli.engine.rounds import Rounds
from dimo_cli.engine.schedules import noise_sigma
from dimo_cli.engine.teacher_pass import TeacherPass
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.objectives import SdttSpec
from dimo_cli.specs.teacher import TeacherGuidance
from dimo_cli.teachers.protocol import Cond

FIRST, LEAST_REVEALED = 1e-5, 1e-3


def step_length(spec: SdttSpec, round_: int) -> float:
    """dt of a round: one of `from_steps` steps from 1 to 1e-5, twice as long with every round."""
    return (1 - FIRST) / spec.from_steps * 2**round_


def mask_chance(t: Tensor) -> Tensor:
    """1 - alpha: how likely a slot of an image is masked at t."""
    return (1 - LEAST_REVEALED) * t


def reveal_chance(t: Tensor, dt: float, grid: str) -> Tensor:
    """How likely the first of the teacher's two steps reveals a masked slot.

    The authors' code means to go from t to t - 2 dt, and blends them by t where it should by the
    share of the steps that are done; so its first step starts at another time.
    """
    if grid == "released":
        t = t + (1 - t) * (t - 2 * dt)
    t = t.clamp(min=FIRST)
    return (t - (t - dt).clamp(min=FIRST)) / t


def loss_and_gradient(kind: str, log_p: Tensor, log_target: Tensor) -> tuple[Tensor, Tensor]:
    """What a slot is asked for [..., V], and its loss [...], for log-probabilities [..., V]."""
    p, d = log_p.exp(), log_p - log_target
    if kind == "reverse_kl":
        loss = (p * d).sum(-1)
        return p * (d - loss[..., None]), loss
    if kind == "forward_kl":
        target = log_target.exp()
        return p - target, -(target * d).sum(-1)
    # The other two are losses of log-probabilities, whose gradients sum to what p is asked for.
    if kind == "tvd":
        loss, of_log_p = d.abs().sum(-1), d.sign()
    else:
        loss, of_log_p = d.square().mean(-1), 2 * d / d.shape[-1]
    return of_log_p - p * of_log_p.sum(-1, keepdim=True), loss


class Sdtt(PassObjective):
    """Half as many steps with every round."""

    name = "sdtt"
    teacher_looks = 2

    def __init__(self, settings: SdttSpec, weight: float = 1.0) -> None:
        self.settings, self.weight = settings, weight
        self.needs, self.drawings = needs_of(settings), drawings_of(settings)
        self.looks = 1 if settings.images == "student" else 0

    def attach(self, run: Run) -> None:
        check_starts_masked(run, self.name)
        self.run = run
        self.clean = CleanTokens(run, self.settings)
        self.rounds = Rounds(run.student, self.settings.rounds, run.spec.train.steps)

    def networks(self) -> dict[str, nn.Module]:
        return {"sdtt_teacher": trained_part(self.rounds.source)}

    def begin(self, step: int) -> None:
        """Have the teacher of the round that a step is in; the first one is guided as it is."""
        run = self.run
        if not self.rounds.turn_to(step, run.student):
            return
        self.teacher = TeacherPass(run.teacher, run.spec.teacher.guidance)
        if self.rounds.current:
            world = replace(run.teacher, backbone=self.rounds.source)
            self.teacher = TeacherPass(world, TeacherGuidance())

    def backward(self, step: int, measure: bool) -> None:
        run, kind = self.run, self.settings.divergence
        clean, cond = self.clean.draw(step)
        t = FIRST + (1 - FIRST) * uniform((len(clean),), run.generator)
        masked = uniform(clean.shape, run.generator) < mask_chance(t)[:, None, None]
        x_t = clean.masked_fill(masked, run.teacher.space.mask_id)
        sigma = noise_sigma(run.spec.init.embed_noise, step)
        with run.autocast():
            target_of = self.two_steps(x_t, masked, cond, t, sigma)
        # Of a masked token on average, as the number of them is another one in each pass.
        expected = clean.numel() * float(mask_chance(torch.tensor((1 + FIRST) / 2)))
        scale = self.weight / (expected * run.spec.train.accumulate)
        rows = masked.any(-1).flatten().nonzero().squeeze(-1)
        slots, losses = masked.flatten(0, 1)[rows], [torch.zeros((), device=clean.device)]

        def ask(head: HeadRows, part: slice) -> Tensor:
            log_p = head.logits().detach().float().log_softmax(-1)
            gradient, loss = loss_and_gradient(kind, log_p, target_of(rows[part]))
            losses.append((loss * slots[part]).sum())
            return gradient * (slots[part] * scale)[..., None]

        with run.autocast():
            hidden = student_hidden(run.student, x_t, cond, sigma, run.generator)
            backward_through_head(run.student, hidden, rows, run.chunk_tokens, ask)
        run.log("sdtt_loss", torch.stack(losses).sum() / masked.sum().clamp(min=1))

    @torch.no_grad()
    def two_steps(
        self, x_t: Tensor, masked: Tensor, cond: Cond, t: Tensor, sigma: float
    ) -> Callable[[Tensor], Tensor]:
        """The teacher's two steps; log-targets [n, G, V] of flat rows."""
        run = self.run
        dt = step_length(self.settings, self.rounds.current)
        first = self.look(x_t, cond, t, sigma)
        drawn = self.drawn(first, x_t)
        chance = reveal_chance(t, dt, self.settings.grid)[:, None, None]
        revealed = masked & (uniform(x_t.shape, run.generator) < chance)
        x_s = torch.where(revealed, drawn, x_t)
        second = self.look(x_s, cond, (t - dt).clamp(min=0), sigma)
        temperature = run.spec.loss.teacher_temperature

        def target_of(rows: Tensor) -> Tensor:
            early, late = (log_probs(guided(said(rows)), temperature) for said in (first, second))
            return torch.where(revealed.flatten(0, 1)[rows][..., None], early, late)

        return target_of

    def look(self, tokens: Tensor, cond: Cond, t: Tensor, sigma: float) -> TeacherAt:
        """What the teacher says of tokens; where it was the student, with the student's noise."""
        backbone, generator = self.teacher.teacher.backbone, self.run.generator
        seen = backbone.embed(tokens), cond
        if self.rounds.current:
            seen = seen_by_student(backbone, tokens, cond, sigma, generator)
        return self.teacher.logits(*seen, t)

    def drawn(self, project: TeacherAt, x_t: Tensor) -> Tensor:
        """Tokens [B, L, G] that the teacher draws everywhere; only codes can be drawn."""
        run, space = self.run, self.run.teacher.space
        count, tokens = x_t.shape[0] * x_t.shape[1], []
        rows = torch.arange(count, device=x_t.device)
        row = (space.groups, space.codes)
        for part, source in sourced_chunks(count, run.chunk_tokens, run.generator, lambda: row):
            logits = guided(project(rows[part]))[..., : space.codes]
            tokens.append(draw_tokens(logits / run.spec.loss.teacher_temperature, source))
        return torch.cat(tokens).view_as(x_t)


def build(spec: DistillSpec, weight: float, **settings: Any) -> Sdtt:
    """The objective of `kind: sdtt`."""
    return Sdtt(SdttSpec.model_validate(settings), weight)
