"""Arenas whose numbers are kept, in tables for the README and for `examples/results/arena.md`.

benchmarks/results/arena/NAME.json    what `python -m benchmarks.arena FOLDER NAME` kept
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dimo_cli.cards.markdown import block
from dimo_cli.runs.arena_table import ArenaResult, Contender, Outcome
from dimo_cli.runs.arena_text import commands_of, lines_of, measured_parts, papers
from dimo_cli.runs.intervals import NOTHING, Interval
from dimo_cli.specs.arena import METHODS, ArenaSpec
from dimo_cli.specs.metrics import falls
from docs.generator.markdown import table
from docs.generator.measured import RESULTS

KEPT = RESULTS / "arena"
SHARES = {"geneval"}  # whose intervals cannot lead below 0 or beyond 1


def kept(name: str) -> ArenaResult:
    """A kept arena as `dimo arena` had it."""
    document = json.loads((KEPT / f"{name}.json").read_text(encoding="utf-8"))
    asked = ArenaSpec(**{field: document[field] for field in ArenaSpec.model_fields})
    contenders = tuple(contender_of(one) for one in document["results"])
    return ArenaResult(asked, contenders, tuple(document["set"]), Path("runs", f"arena-{name}"))


def contender_of(told: Mapping[str, Any]) -> Contender:
    """A method with what is kept of it."""
    method = told["method"]
    title = METHODS[method].title
    if "refused" in told:
        return Contender(method, title, refusal=told["refused"])
    outcomes, tuned = (tuple(map(outcome_of, told[of])) for of in ("runs", "tuning"))
    return Contender(method, title, outcomes, tuned, told["rates"], told["command"])


def outcome_of(told: Mapping[str, Any]) -> Outcome:
    """A run with what is kept of it."""
    numbers = {int(steps): found for steps, found in told["numbers"].items()}
    named = {name: told[name] for name in told.keys() - {"run", "rates", "numbers"}}
    return Outcome(run=Path(told["run"]), factor=told["rates"], numbers=numbers, **named)


def in_full(name: str) -> str:
    """All tables of an arena under its command."""
    result = kept(name)
    lines = [result.sentence(), "", block(result.command, "sh"), ""]
    lines += [line for part in measured_parts(result) for line in lines_of(part, "###")]
    commands = block("\n".join(commands_of(result)), "sh")
    return "\n".join([*lines, *folded("One run of each", commands)])


def folded(title: str, text: str) -> list[str]:
    """What a reader opens who wants it."""
    return ["<details>", f"<summary>{title}</summary>", "", text, "", "</details>"]


def in_short(name: str) -> str:
    """The first number of each method by steps, best first; an FID beside it in whole numbers."""
    result = kept(name)
    metric, steps = result.metrics[0], result.asked.steps
    found = {one.method: one.number(metric, steps[0]) for one in result.contenders}
    means = {method: number.mean for method, number in found.items() if number}
    ranked = sorted(
        (one for one in result.contenders if one.method in means),
        key=lambda one: means[one.method],
        reverse=not falls(metric),
    )
    ends = dict.fromkeys((steps[0], steps[-1]))
    rows = [
        [
            one.title.replace("[", r"\[").replace("]", r"\]"),
            *(bounded(one.number(metric, count), metric) for count in steps),
            beside(one, ends) if metric != "fid" else "",
        ]
        for one in ranked
    ]
    head = ["method", *(f"{count} step{'s' * (count > 1)}" for count in steps)]
    return table([*head, f"FID of {' and '.join(map(str, ends))} steps"], rows)


def bounded(found: Interval | None, metric: str) -> str:
    """A mean with the ends of its interval."""
    if found is None or found.low is None or found.high is None:
        return f"{found.mean:.2f}" if found else NOTHING
    low, high = found.low, found.high
    if metric in SHARES:
        low, high = max(low, 0.0), min(high, 1.0)
    return f"{found.mean:.2f} [{low:.2f}, {high:.2f}]"


def beside(one: Contender, steps: Mapping[int, None]) -> str:
    """Mean FIDs, which tell pictures that are all alike."""
    found = (one.number("fid", count) for count in steps)
    return ", ".join(f"{number.mean:.0f}" for number in found if number)


def of_papers(*names: str) -> str:
    """What papers report of the methods of these arenas."""
    methods = dict.fromkeys(method for name in names for method in kept(name).asked.methods)
    return "\n".join(lines_of(papers(tuple(methods)), "##")).strip()
