"""What a loss of a run is: it sees what a step has, and asks for a gradient at the logits.

A run has a list of objectives. There are two ways to ask. A `MaskedObjective` knows its gradient in
closed form at the positions that are masked in x_tilde, from what teacher, auxiliary and, if it
wants to, the student say there. A `WholeObjective` asks of the logits of all positions at once; one
kind is a `SoftObjective`, a loss of relaxed tokens, which are differentiated (`relax`). All these
gradients meet at the student's hidden states, in one backward pass. A `PassObjective` shows the
student something else than x_init, in passes of its own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from dimo_cli.engine.draws import Rows, Source
from dimo_cli.engine.field import TeacherAt, TeacherLogits
from dimo_cli.engine.masking import Mask
from dimo_cli.engine.optimizer import NetworkOptimizer
from dimo_cli.engine.relax import estimate
from dimo_cli.engine.rollout import Path, certain_logits
from dimo_cli.engine.verdict import Verdict
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.refine import RelaxSpec
from dimo_cli.teachers.protocol import Backbone, Cond, Teacher


@dataclass(slots=True)
class Generation:
    """The student's last pass: what it saw, and the tokens x_theta it made of it."""

    cond: Cond
    init_mask: Tensor
    sigma: float
    hidden: Tensor
    tokens: Tensor
    entropy: Tensor | None
    top1: Tensor | None
    kept: Tensor | None = None
    """Which slots [B, L, G] kept their token of an earlier step; None: the pass drew them all."""
    path: Path = ()
    """Which step it was of those that are trained."""
    still_open: int = 0
    """How many slots the next step draws anew: so many are always masked in x_tilde."""
    logits: Tensor | None = None
    """The student's logits [B L, G, V], where they are asked for after its head has changed."""

    def settled(self, logits: Tensor, rows: Tensor) -> Tensor:
        """The student's logits [n, G, V] of flat rows, which is certain of the tokens it kept."""
        if self.kept is None:
            return logits
        kept, tokens = self.kept.flatten(0, 1)[rows], self.tokens.flatten(0, 1)[rows]
        certain = certain_logits(tokens, logits.shape[-1]).to(logits)
        return torch.where(kept[..., None], certain, logits)

    def settled_everywhere(self, logits: Tensor) -> Tensor:
        """As `settled`, of all logits [B, L, G, V]."""
        rows = torch.arange(logits.shape[0] * logits.shape[1], device=logits.device)
        return self.settled(logits.flatten(0, 1), rows).view_as(logits)


@dataclass(slots=True)
class StepReport:
    """What one step measured; `skipped` names the network whose numbers were not finite."""

    values: dict[str, float]
    skipped: str | None = None


@dataclass(slots=True)
class Seen:
    """What one step has measured, as far as it is on the card still."""

    values: Mapping[str, Tensor | float] = field(default_factory=dict)
    skipped: str | None = None
    optional: frozenset[str] = frozenset()
    """What is not there yet where it is not a number."""

    def read(self) -> StepReport:
        """The same as numbers; it waits for the card."""
        values = {n: v.item() if isinstance(v, Tensor) else v for n, v in self.values.items()}
        there = {n: v for n, v in values.items() if n not in self.optional or not math.isnan(v)}
        return StepReport(there, self.skipped)


@dataclass(frozen=True, slots=True)
class Needs:
    """What a step has to have for an objective; it is decided before any network is made."""

    auxiliary: bool = False
    """The network that learns the student's own tokens."""
    student: bool = False
    """The student's logits at the masked positions, which are not formed otherwise."""
    anchor: float = 0.0
    """Weight of the teacher's predictions among what the auxiliary learns (D-MMD)."""
    images: str | None = None
    """Whose whole images it masks parts of: those of `data`, `teacher` or `student`."""
    pairs: bool = False
    """Pairs of a start and what a network made of it."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """Pairs that are drawn once, before or between the steps of a run."""

    count: int
    by_teacher: bool = True
    steps: int | None = None
    """That each of them takes; None: those of the teacher's sampler."""


@dataclass(frozen=True, slots=True)
class MaskedRows:
    """Some positions [n] where slots of x_tilde are masked, and what each network says there.

    Logits [n, G, V] are made when they are asked for, anew each time, for the asker to change.
    """

    teacher: Callable[[], TeacherLogits]
    auxiliary: Callable[[], Tensor]
    student: Callable[[], Tensor]
    """Without a graph; only for an objective that says it needs them."""
    tokens: Callable[[], Tensor]
    """What the student drew there [n, G]."""
    slots: Tensor
    """Which of their slots are masked [n, G]."""
    masked: Callable[[], Tensor]
    """How many slots are masked in the sample of each row [n]."""
    scale: Tensor
    """w(t) over the divisor of `loss.reduction` [n, G, 1]; 0 where no slot is masked, or where
    the student had kept its token of an earlier step."""
    temperatures: tuple[float, float]
    """Of teacher and auxiliary."""


class RealTokens(Protocol):
    """Images as tokens, with what they are images of."""

    def draw(
        self, count: int, generator: torch.Generator, rows: slice = slice(None)
    ) -> tuple[Tensor, Cond]:
        """`rows` of `count` random tokens [B, L, G] and their conditions, where they were drawn."""


class PairedTokens(Protocol):
    """Starts [B, L, G], what a network made of each, and the conditions."""

    def draw(
        self, count: int, generator: torch.Generator, rows: slice = slice(None)
    ) -> tuple[Tensor, Tensor, Cond]:
        """`rows` of `count` random pairs."""


class PairMaker(Protocol):
    """Who has pairs drawn, or finds those that were drawn before."""

    def __call__(self, source: Backbone | None, count: int, steps: int | None) -> PairedTokens:
        """So many pairs of a network, drawn in so many steps; None: the teacher and its sampler."""


@dataclass(frozen=True, slots=True)
class Supplies:
    """What a run has beside its networks, where an objective needs it."""

    data: RealTokens | None = None
    pairs: PairMaker | None = None


class Run(Protocol):
    """What an objective may use of the run that it belongs to."""

    teacher: Teacher
    spec: DistillSpec
    student: Backbone
    generator: Rows
    autocast: Callable[[], AbstractContextManager[None]]
    verdict: Verdict
    supplies: Supplies
    chunk_tokens: int
    """Positions whose logits are formed at a time."""

    def generate(self, step: int, measure: bool = False, gradients: bool = True) -> Generation:
        """What the student makes of x_init."""

    def draw_conditions(self, count: int) -> Cond:
        """The conditions of a batch: those of an objective's data, or drawn."""

    def turn_to(self, index: int) -> None:
        """Draw from now on for one of the step's passes."""

    def log(self, name: str, value: Tensor) -> None:
        """Remember a number for the log; it is read when a step is measured."""

    def norm(self, name: str) -> Tensor:
        """The running norm of what an objective asks of the logits; `distill`: all masked ones."""


class Objective:
    """One loss of a run. What it leaves out of these hooks, it has nothing to say about."""

    name: str = "objective"
    """In the log and in messages."""
    needs: Needs = Needs()
    drawings: Sequence[Drawing] = ()
    """What it has drawn, for planning."""
    can_be_recorded: bool = False
    """Whether it does the same to tensors of the same shapes in every step (`train.capture`)."""
    alike_from: int = 0
    """The step from which on that is so."""
    run: Run

    def attach(self, run: Run) -> None:
        """Teacher and student are there: make what networks are needed beside them."""
        self.run = run

    def begin(self, step: int) -> None:
        """A step begins."""

    def conditions(self, count: int) -> Cond | None:
        """The conditions of a batch, if its data decides them."""
        return None

    def prepare_ask(self, count: int) -> Mapping[str, Tensor]:
        """What Python decides of its part in a pass of so many samples, drawn beforehand."""
        return {}

    def prepare_follow(self, count: int) -> Mapping[str, Tensor]:
        """The same of what it does in `follow`."""
        return {}

    def take(self, prepared: Mapping[str, Tensor] | None) -> None:
        """Use these in place of draws, in the next step; None: draw."""

    def follow(self, step: int, measure: bool) -> Seen:
        """Update other networks, once student and auxiliary are; numbers for the log."""
        return Seen()

    def networks(self) -> dict[str, nn.Module]:
        """Networks of its own whose weights change."""
        return {}

    def optimizers(self) -> dict[str, NetworkOptimizer]:
        """Their optimizers."""
        return {}

    def backbones(self) -> list[Backbone]:
        """Networks of the teacher's kind that it runs beside those of the run."""
        return []


class MaskedObjective(Objective, ABC):
    """A gradient in closed form at the student's logits of masked positions."""

    needs = Needs(auxiliary=True)

    @abstractmethod
    def ask(self, rows: MaskedRows, measure: bool) -> tuple[Tensor, Tensor | None]:
        """The gradient [n, G, V], times `rows.scale`; with `measure` also a value [n, G].

        The mean of the values over masked slots is logged as the divergence.
        """


class WholeObjective(Objective, ABC):
    """A gradient at the student's logits of all positions."""

    looks: float = 0
    """Forwards of a network of the student's size beside the student's own, for planning."""

    @abstractmethod
    def ask(
        self, generation: Generation, logits: Tensor, relax: RelaxSpec, generator: Source
    ) -> tuple[Tensor, Tensor] | None:
        """What it asks of a pass's logits [B, L, G, V], which are a leaf, and a loss a sample [B].

        The gradient is that of the mean over samples. None: nothing in this step.
        """

    @abstractmethod
    def factor(self) -> Tensor | float:
        """What its gradient is multiplied by."""

    def weigh(self, weights: Tensor) -> Tensor:
        """The weights [B] of samples in what others ask of masked tokens, of those that they had.

        Asked after `ask`, of the same pass.
        """
        return weights


SoftLoss = Callable[[Tensor], Tensor]
"""A value for each sample [B] of token weights [B, L, G, V]."""


class SoftObjective(WholeObjective, ABC):
    """A loss of relaxed tokens, through which a gradient flows back to the logits."""

    @abstractmethod
    def loss_of(self, generation: Generation, logits: Tensor) -> SoftLoss | None:
        """The loss of a pass with these student logits [B, L, G, V]; None: not in this step."""

    def ask(
        self, generation: Generation, logits: Tensor, relax: RelaxSpec, generator: Source
    ) -> tuple[Tensor, Tensor] | None:
        loss = self.loss_of(generation, logits)
        if loss is None:
            return None
        surrogate, values = estimate(relax.kind, logits, loss, generator, relax.temperature)
        (gradient,) = torch.autograd.grad(surrogate / len(logits), logits)
        return gradient, values


class PassObjective(Objective, ABC):
    """A loss of passes in which the student sees something else than x_init."""

    trained: float = 1
    """Samples that go through the student, and back, for each of the batch."""
    looks: float = 0
    """Samples that go through it or a network like it without a way back."""
    teacher_looks: float = 0
    """Samples that go through the teacher."""

    @abstractmethod
    def backward(self, step: int, measure: bool) -> None:
        """Run the student for one of the step's passes, and backpropagate its share of the loss."""


@dataclass(slots=True)
class SharedMask:
    """An x_tilde whose auxiliary forward the student's update already paid for."""

    mask: Mask
    hidden: Tensor
    teacher: TeacherAt


@dataclass(slots=True)
class Asked:
    """What masked objectives ask of the student's hidden states [B, L, D]."""

    hidden: Tensor
    gradient: Tensor
    divergence: Tensor
    """The mean divergence, for the log."""
    reuse: SharedMask | None
