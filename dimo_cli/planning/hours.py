"""How long a run takes and what that costs: numbers that are said before it runs, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dimo_cli.specs.resolve import presets_folder
from dimo_cli.specs.shipped import SHIPPED

COSTS = "costs.json"  # what was counted of the presets, beside them
H100_PEAK = 989e12  # dense bf16 FLOP/s, as of its data sheet
# Which share of that a step reaches, as benchmarks/results/gpu has it: MaskBit's step, one of plain
# transformers, and Meissonic's, of four samples at a time, with convolutions in between.
PLAIN, CONVOLVED = 0.371, 0.092
CONVOLVED_FAMILIES = ("meissonic", "muddit", "amused")
DOLLARS_AN_HOUR = 2.50  # of one H100, as rented; prices differ, so it is always said beside a cost


@dataclass(frozen=True, slots=True)
class Hours:
    """Seconds of a run; what is not known is None."""

    training: float | None
    """On this machine: all steps, and what is drawn, measured and saved between them."""
    table: float | None
    """On this machine: the closing table, less what is known of the teacher already."""
    on_h100: float | None
    """All steps on one H100."""
    how: str
    """How this machine's were found out."""
    pairs: float | None = None
    """Of `training`, what goes into pairs that are drawn anew; None where none are."""

    def document(self) -> dict[str, Any]:
        """For machines, in hours."""
        seconds = {"training": self.training, "closing_table": self.table}
        seconds |= {"pairs": self.pairs} if self.pairs is not None else {}
        found = {key: None if s is None else round(s / 3600, 5) for key, s in seconds.items()}
        return {**found, "how": self.how, **cost_document(self.on_h100)}


def cost_document(seconds: float | None) -> dict[str, Any]:
    """Hours and dollars on one H100, for machines; null where nothing is known."""
    return {
        "h100_hours": None if seconds is None else round(seconds / 3600, 2),
        "dollars": None if seconds is None else round(dollars(seconds), 2),
        "dollars_an_hour": DOLLARS_AN_HOUR,
    }


def dollars(seconds: float) -> float:
    """What so long on one H100 costs, estimated."""
    return seconds / 3600 * DOLLARS_AN_HOUR


def share_of_peak(family: str) -> float:
    """Which share of a card's arithmetic the steps of a family reach."""
    return CONVOLVED if family in CONVOLVED_FAMILIES else PLAIN


def seconds_on_h100(family: str, flops: float) -> float | None:
    """So much arithmetic on one H100, estimated; None where arithmetic is not what takes time."""
    if family in SHIPPED:  # too small: a card would wait for Python most of the time
        return None
    return flops / (H100_PEAK * share_of_peak(family))


def counted_costs() -> Mapping[str, Mapping[str, Any]]:
    """What was counted of every preset: counting takes too long to wait for it."""
    found: dict[str, Mapping[str, Any]] = json.loads(
        (presets_folder() / COSTS).read_text(encoding="utf-8")
    )
    return found


def words(seconds: float) -> str:
    """A time as people say it, no more exact than an estimate is."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.0f} min"
    hours = minutes / 60
    return f"{hours:.1f} hours" if hours < 10 else f"{hours:,.0f} hours"


def cost_words(seconds: float | None) -> str:
    """Hours and cost on one H100."""
    if seconds is None:
        return "under an hour: it is too small for a GPU to be busy with"
    return (
        f"about {words(seconds)}, ${dollars(seconds):,.0f} at ${DOLLARS_AN_HOUR:.2f} an hour "
        "(an estimate)"
    )
