"""Tables of the report, and how a number of several seeds is told."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev

from benchmarks.soft_dimo.evidence import Results, paired, seeds_of
from benchmarks.soft_dimo.intervals import Interval


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def over_seeds(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds, or the only value."""
    if len(values) == 1:
        return f"{values[0]:.3f} (1 seed)"
    return f"{mean(values):.3f} ± {stdev(values):.3f} ({len(values)} seeds)"


def gain(found: Results, other: Results, name: str, base: str) -> Interval | None:
    """The verifier's paired gain of one trial over another, over the seeds that both have."""
    return paired(seeds_of(found, name), seeds_of(other, base))
