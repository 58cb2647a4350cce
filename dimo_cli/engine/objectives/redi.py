"""ReDi (arXiv 2507.15897): pairs of a start and what a network made of it, learnt in rounds.

A factorised student errs by the total correlation of its outputs given its input. Draw x_1 from a
start x_0 in many steps, and train on those pairs: given its own x_0, x_1 varies less, and with
every round of new pairs less again. Between the ends of a pair a slot is x_0's or x_1's,

    x_t = where(u < share(r), x_0, x_1),   r ~ U[0, 1],

and the student learns x_1 by cross-entropy with smoothed targets, over all slots. In the first
round starts and the teacher's images are drawn apart: it is there that the student learns to see
masks and random codes mixed. In the last one it sees starts alone, as it will when it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dimo_cli.engine.draws import on_host, own_generator, samples_among, uniform
from dimo_cli.engine.heads import HeadRows, backward_through_head
from dimo_cli.engine.lora import trained_part
from dimo_cli.engine.objective import Drawing, Needs, PairedTokens, PassObjective, Run
from dimo_cli.engine.one_step import student_hidden
from dimo_cli.engine.rounds import Rounds
from dimo_cli.engine.schedules import noise_sigma
from dimo_cli.errors import SpecError
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.objectives import RediSpec
from dimo_cli.teachers.plans import SCHEDULES

SHARES: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda r: 1 - r,
    "square": lambda r: 1 - r**2,
    "root": lambda r: 1 - r.sqrt(),
    "cosine": SCHEDULES["cosine"],
    "arccos": SCHEDULES["arccos"],
    "start": torch.ones_like,
}
"""The share of slots that are still those of the start, at r."""


def interpolated(start: Tensor, end: Tensor, u: Tensor, share: Tensor) -> Tensor:
    """x_t of pairs [B, L, G]: the start's slots where u is below their sample's share [B]."""
    return torch.where(u < share.view(-1, *[1] * (u.ndim - 1)), start, end)


def smoothed_gradient(log_p: Tensor, end: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """p - target [..., V], with 1 - e of the target at x_1 and e over all ids, and the loss."""
    target = torch.full_like(log_p, smoothing / log_p.shape[-1])
    target.scatter_add_(-1, end[..., None], torch.full_like(log_p, 1 - smoothing)[..., :1])
    return log_p.exp() - target, -(target * log_p).sum(-1)


class Redi(PassObjective):
    """Cross-entropy to the ends of pairs, which are made anew by the student in each round."""

    name = "redi"
    needs = Needs(pairs=True)

    def __init__(self, settings: RediSpec, weight: float = 1.0) -> None:
        self.settings, self.weight = settings, weight
        self.pairs: PairedTokens | None = None
        rounds = [True] + [False] * (settings.rounds - 1)
        self.drawings = [Drawing(settings.pairs, each, settings.sampler_steps) for each in rounds]

    def attach(self, run: Run) -> None:
        if not run.spec.student.in_one_step:
            raise SpecError(
                "Objective redi shows the student mixtures of its start and an image, and the "
                "later ones of several steps (`student.steps`) start from masks and kept tokens.",
                "Set `student.steps=1`.",
            )
        self.run = run
        self.rounds = Rounds(run.student, self.settings.rounds, run.spec.train.steps)

    def networks(self) -> dict[str, nn.Module]:
        return {"redi_source": trained_part(self.rounds.source)}

    def begin(self, step: int) -> None:
        """Have the pairs of the round that a step is in."""
        if not self.rounds.turn_to(step, self.run.student) and self.pairs is not None:
            return
        source = self.rounds.source if self.rounds.current else None
        pairs = self.run.supplies.pairs
        assert pairs is not None
        self.pairs = pairs(source, self.settings.pairs, self.settings.sampler_steps)

    @property
    def schedule(self) -> str:
        """How a student of this round sees its pairs."""
        is_last = self.rounds.current == self.settings.rounds - 1
        return "start" if is_last and self.settings.ends_at_start else self.settings.schedule

    def backward(self, step: int, measure: bool) -> None:
        run, settings = self.run, self.settings
        source = on_host(run.generator)
        total, rows = samples_among(run.spec.train.batch_size, source)
        assert self.pairs is not None
        start, end, cond = self.pairs.draw(total, own_generator(source), rows)
        device = run.generator.device
        start, end, cond = start.to(device), end.to(device), cond.to(device)
        share = SHARES[self.schedule](uniform((len(end),), run.generator))
        x_t = interpolated(start, end, uniform(end.shape, run.generator), share)
        sigma = noise_sigma(run.spec.init.embed_noise, step)
        scale = self.weight / (end.numel() * run.spec.train.accumulate)
        targets, losses = end.flatten(0, 1), []

        def ask(head: HeadRows, part: slice) -> Tensor:
            log_p = head.logits().detach().float().log_softmax(-1)
            gradient, loss = smoothed_gradient(log_p, targets[part], settings.label_smoothing)
            losses.append(loss.sum())
            return gradient * scale

        with run.autocast():
            hidden = student_hidden(run.student, x_t, cond, sigma, run.generator)
            every = torch.arange(len(targets), device=device)
            backward_through_head(run.student, hidden, every, run.chunk_tokens, ask)
        run.log("redi_loss", torch.stack(losses).sum() / end.numel())


def build(spec: DistillSpec, weight: float, **settings: Any) -> Redi:
    """The objective of `kind: redi`."""
    return Redi(RediSpec.model_validate(settings), weight)
