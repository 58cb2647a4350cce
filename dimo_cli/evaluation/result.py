"""The numbers of an evaluation, as they are shown and kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dimo_cli import __version__
from dimo_cli.evaluation.gates import named
from dimo_cli.metrics.protocol import Result


@dataclass(frozen=True)
class Evaluation:
    """The numbers of a target: `results` has each with its protocol.

    `subject` says who made the images and how, `notes` what is to be known of the numbers, and
    `cached` whether they were measured before.
    """

    results: list[Result]
    subject: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    cached: bool = False

    @property
    def values(self) -> dict[str, float]:
        """Every number by its name, such as `fid5k`."""
        return {result.metric: result.value for result in self.results}

    def __getitem__(self, name: str) -> float:
        """The number of this name, or of the metric of this name: `fid`."""
        found = named(self.results, name)
        if found is None:
            raise KeyError(f"{name!r} was not measured, only {', '.join(self.values)}")
        return found.value

    def document(self) -> dict[str, Any]:
        """All of it as one JSON document."""
        return {
            "dimo": __version__,
            "subject": self.subject,
            "values": self.values,
            "results": [asdict(result) for result in self.results],
            "notes": self.notes,
            "cached": self.cached,
        }

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Evaluation:
        """An evaluation that was written before; anything else is a ValueError."""
        try:
            results = [Result(**result) for result in document["results"]]
            found = cls(results, document["subject"], document["notes"], document["cached"])
        except (KeyError, TypeError) as error:
            raise ValueError("it is no evaluation") from error
        for result in results:
            parts = (result.protocol, result.details, found.subject)
            if not isinstance(result.metric, str) or not isinstance(result.value, (int, float)):
                raise ValueError("it has a number that is none")
            if not all(isinstance(part, dict) for part in parts):
                raise ValueError("it has a number without a protocol")
        return found
