"""The numbers of an evaluation, as they are shown and kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dimo_cli import __version__
from dimo_cli.metrics.protocol import Result


@dataclass(frozen=True)
class Evaluation:
    """The numbers of a target, each with its protocol."""

    results: list[Result]
    subject: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    cached: bool = False

    def document(self) -> dict[str, Any]:
        """All of it as one JSON document."""
        return {
            "dimo": __version__,
            "subject": self.subject,
            "values": {result.metric: result.value for result in self.results},
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
