"""Numbers at several sampling temperatures, and the best temperature of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dimo_cli.evaluation.result import Evaluation
from dimo_cli.specs.evaluate import EvalSpec
from dimo_cli.specs.metrics import falls


@dataclass(frozen=True, slots=True)
class Sweep:
    """An evaluation at every temperature."""

    rows: list[tuple[float, Evaluation]]

    @property
    def names(self) -> list[str]:
        """The metrics in their order."""
        return [result.metric for result in self.rows[0][1].results]

    @property
    def best(self) -> dict[str, dict[str, float]]:
        """The best value of each metric, and the temperature where it was found."""
        found = {}
        for index, name in enumerate(self.names):
            values = [(value, temperature) for temperature, value in self.curve(index)]
            value, temperature = min(values) if falls(name) else max(values)
            found[name] = {"value": value, "temperature": temperature}
        return found

    def curve(self, index: int) -> list[tuple[float, float]]:
        """Temperatures and values of one metric."""
        return [(temperature, found.results[index].value) for temperature, found in self.rows]

    def sentences(self) -> list[str]:
        """The best of each metric in words."""
        return [
            f"Best {name}: {found['value']:.4f} at temperature {found['temperature']:g}."
            for name, found in self.best.items()
        ]

    def document(self) -> dict[str, Any]:
        """For machines."""
        return {
            "best": self.best,
            "curve": [{"temperature": t, **found.document()} for t, found in self.rows],
        }


def sweep(spec: EvalSpec, measure: Callable[[EvalSpec], Evaluation]) -> Sweep:
    """Measure at every temperature of a spec."""
    rows = []
    for temperature in spec.temperatures:
        sampler = spec.sampler.model_copy(update={"temperature": temperature})
        one = spec.model_copy(update={"sampler": sampler, "temperatures": ()})
        rows.append((temperature, measure(one)))
    return Sweep(rows)
