"""Which objectives a spec asks for. The only place that maps a name to an objective."""

from __future__ import annotations

from dimo_cli.engine.objective import MaskedObjective
from dimo_cli.engine.objectives.dimo import Dimo
from dimo_cli.specs.distill import DistillSpec


def masked_objectives(spec: DistillSpec, weight: float = 1.0) -> list[MaskedObjective]:
    """The objectives at masked positions, each times `weight`."""
    return [Dimo(spec.loss.divergence, weight)]
