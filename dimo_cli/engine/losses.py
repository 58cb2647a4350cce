"""All objectives of a run as one: what they ask for together, what they train, what they log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dimo_cli.engine.draws import Source
from dimo_cli.engine.norms import GradientNorms
from dimo_cli.engine.objective import (
    Generation,
    MaskedObjective,
    MaskedRows,
    Objective,
    PassObjective,
    Run,
    Seen,
    WholeObjective,
)
from dimo_cli.engine.optimizer import NetworkOptimizer
from dimo_cli.engine.revealed import RevealedCredit
from dimo_cli.engine.share import Share
from dimo_cli.errors import SpecError
from dimo_cli.specs.refine import RelaxSpec
from dimo_cli.teachers.protocol import Backbone, Cond


class Losses:
    """The objectives of a run, in the order in which they draw."""

    def __init__(
        self,
        objectives: Sequence[Objective],
        relax: RelaxSpec | None,
        follows_norms: bool,
        credit: RevealedCredit | None = None,
    ) -> None:
        """`relax` is how gradients get through tokens; norms are followed where they differ.

        `credit` is what revealed tokens get beside what is asked of masked ones.
        """
        self.credit = credit
        refuse_several_sources(objectives)
        self.objectives, self.relax = objectives, relax or RelaxSpec()
        self.masked = [one for one in objectives if isinstance(one, MaskedObjective)]
        self.soft = [one for one in objectives if isinstance(one, WholeObjective)]
        self.passes = [one for one in objectives if isinstance(one, PassObjective)]
        self.norms = GradientNorms() if self.soft or follows_norms else None
        self.seen: dict[str, Tensor] = {}

    @property
    def use_auxiliary(self) -> bool:
        """Whether any of them has a use for an auxiliary."""
        return any(objective.needs.auxiliary for objective in self.objectives)

    @property
    def anchor(self) -> float:
        """Weight of the teacher's predictions among what the auxiliary learns."""
        return max((objective.needs.anchor for objective in self.objectives), default=0.0)

    @property
    def see_student(self) -> bool:
        """Whether any looks at the student's logits where it asks for something."""
        asked = any(objective.needs.student for objective in self.masked)
        return asked or self.credit is not None

    @property
    def at_x_init(self) -> bool:
        """Whether any is about what the student makes of x_init."""
        return bool(self.masked or self.soft)

    @property
    def never_alike(self) -> list[str]:
        """Those that do something else in every step, so that none can be recorded."""
        credit = ["`loss.revealed_credit`"] if self.credit is not None else []
        return credit + [f"`{one.name}`" for one in self.objectives if not one.can_be_recorded]

    @property
    def alike_from(self) -> int:
        """The step from which on they do."""
        return max((one.alike_from for one in self.objectives), default=0)

    def prepare_ask(self, count: int) -> list[dict[str, Tensor]]:
        """Of each objective, what Python decides of its part in a pass, drawn beforehand."""
        return [dict(objective.prepare_ask(count)) for objective in self.objectives]

    def prepare_follow(self, count: int) -> list[dict[str, Tensor]]:
        """The same of what each does once student and auxiliary are updated."""
        return [dict(objective.prepare_follow(count)) for objective in self.objectives]

    def take(self, prepared: Sequence[Mapping[str, Tensor]] | None) -> None:
        """Use these in place of draws, in the next step; None: draw."""
        for index, objective in enumerate(self.objectives):
            objective.take(prepared[index] if prepared is not None else None)

    def attach(self, run: Run) -> None:
        """Teacher and student are there: make what networks are needed beside them."""
        for objective in self.objectives:
            objective.attach(run)

    def begin(self, step: int) -> None:
        """A step begins."""
        if self.norms is not None:
            self.norms.begin()
        if self.credit is not None:
            self.credit.begin()
        for objective in self.objectives:
            objective.begin(step)

    def conditions(self, count: int) -> Cond | None:
        """The conditions of a batch, if an objective's data decides them."""
        found = (objective.conditions(count) for objective in self.objectives)
        return next((cond for cond in found if cond is not None), None)

    def backward_passes(self, step: int, measure: bool) -> None:
        """Let objectives run the student over inputs of their own, for one of the step's passes."""
        for objective in self.passes:
            objective.backward(step, measure)

    @torch.no_grad()
    def ask_masked(
        self, seen: MaskedRows, measure: bool, passes: int
    ) -> tuple[Tensor, Tensor | None]:
        """The sum of what is asked of a chunk's logits, and of the first one's values.

        It is a share of a step of so many passes; norms are those of a pass by itself.
        """
        first, *others = self.masked
        gradient, value = first.ask(seen, measure)
        for objective in others:
            gradient = gradient + objective.ask(seen, False)[0]
        if self.norms is not None:
            self.norms.see("distill", gradient * passes)
        return gradient, value

    def ask_soft(self, generation: Generation, logits: Tensor, generator: Source) -> Tensor:
        """What is asked of the logits of all positions [B, L, G, V], which are a leaf.

        Each gradient is found by itself, which also gives its norm.
        """
        assert self.norms is not None
        total = torch.zeros_like(logits)
        for objective in self.soft:
            asked = objective.ask(generation, logits, self.relax, generator)
            if asked is None:
                continue
            gradient, values = asked
            self.norms.see(objective.name, gradient)
            self.seen[f"{objective.name}_loss"] = values.mean()
            total += objective.factor() * gradient
        return total

    def weigh(self, weights: Tensor) -> Tensor:
        """The weights [B] of a pass's samples in what is asked of masked tokens.

        Objectives that have been asked of all its tokens may know which samples matter more.
        """
        for objective in self.soft:
            weights = objective.weigh(weights)
        return weights

    def follow(self, step: int, measure: bool, share: Share) -> Seen:
        """Let objectives update what else is trained, once student and auxiliary are."""
        if self.norms is not None:
            self.norms.end(share)
        if self.credit is not None:
            self.credit.end()
        values: dict[str, Tensor | float] = {}
        optional: frozenset[str] = frozenset()
        if measure:
            norms = measured_norms(self.norms, self.soft) if self.norms is not None else {}
            values, optional = {**self.seen, **norms}, frozenset(norms)
        for objective in self.objectives:
            seen = objective.follow(step, measure)
            if seen.skipped:
                return seen
            values |= seen.values
        return Seen(values, optional=optional)

    def suspects(self) -> list[str]:
        """What was seen in the last step that is not finite and may be why others are not."""
        return [name for name, value in self.seen.items() if not math.isfinite(value.item())]

    def state(self) -> dict[str, float]:
        """Running numbers that decide how training goes on, beside networks and optimizers."""
        credit = self.credit.state() if self.credit is not None else {}
        return credit | (self.norms.values() if self.norms is not None else {})

    def load_state(self, state: dict[str, float]) -> None:
        """Continue from `state`."""
        if self.credit is not None:
            state = self.credit.load_state(state)
        if self.norms is not None:
            self.norms.load(state)

    def backbones(self) -> list[Backbone]:
        """Networks of the teacher's kind that they run beside those of the run."""
        return [backbone for one in self.objectives for backbone in one.backbones()]

    def networks(self) -> dict[str, nn.Module]:
        """Networks of theirs whose weights change."""
        found: dict[str, nn.Module] = {}
        for objective in self.objectives:
            found |= objective.networks()
        return found

    def optimizers(self) -> dict[str, NetworkOptimizer]:
        """Their optimizers."""
        found: dict[str, NetworkOptimizer] = {}
        for objective in self.objectives:
            found |= objective.optimizers()
        return found


def refuse_several_sources(objectives: Sequence[Objective]) -> None:
    """Refuse losses whose real images would each decide what the same samples are of."""
    whose = [one.name for one in objectives if type(one).conditions is not Objective.conditions]
    if len(whose) > 1:
        raise SpecError(
            f"{' and '.join(whose)} both draw real images, whose conditions the student's are to "
            "share.",
            "Use one of them.",
        )


def measured_norms(running: GradientNorms, soft: Sequence[WholeObjective]) -> dict[str, Tensor]:
    """What each loss asks of the logits: as it is, with its weight, and against Di[M]O's.

    What was not seen yet is not a number.
    """
    norms = {name: norm.value for name, norm in running.norms.items()}
    values = {f"{name}_norm": value for name, value in norms.items()}
    distill = norms.pop("distill", None)  # its weight is in it already
    for objective in soft:
        if (norm := norms.get(objective.name)) is None:
            continue
        weighted = objective.factor() * norm
        values[f"weighted_{objective.name}_norm"] = weighted
        if distill is not None:
            ratio = torch.where(distill != 0, weighted / distill, torch.nan)
            values[f"{objective.name}_ratio"] = ratio
    return values
