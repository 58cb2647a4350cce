"""Di[M]O (Eq. 7): the divergence of teacher and auxiliary at x_tilde, handed to the student."""

from __future__ import annotations

from torch import Tensor

from dimo_cli.engine.divergence import build_divergence
from dimo_cli.engine.field import logit_field
from dimo_cli.engine.objective import MaskedObjective, MaskedRows
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.divergences import Divergence


class Dimo(MaskedObjective):
    """The gradient of a divergence at the auxiliary's logits, as if they were the student's."""

    name = "dimo"
    can_be_recorded = True

    def __init__(self, divergence: Divergence, weight: float = 1.0) -> None:
        self.divergence, self.weight = build_divergence(divergence), weight

    def ask(self, rows: MaskedRows, measure: bool) -> tuple[Tensor, Tensor | None]:
        return logit_field(
            self.divergence,
            rows.teacher(),
            rows.auxiliary(),
            rows.scale * self.weight,
            rows.temperatures,
            measure,
        )


def build(spec: DistillSpec, weight: float) -> Dimo:
    """The objective of `kind: dimo`: the divergence is that of `loss.divergence`."""
    return Dimo(spec.loss.divergence, weight)
