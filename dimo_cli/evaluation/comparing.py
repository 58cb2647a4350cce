"""Two written evaluations side by side: only what was measured alike may be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.evaluation.result import Evaluation
from dimo_cli.evaluation.tables import comparison_view, flat
from dimo_cli.files.reading import MOST_DOCUMENT, read_text
from dimo_cli.files.untrusted import parse_json


def compare_documents(first: Path, second: Path) -> tuple[list[dict[str, Any]], Table]:
    """The metrics that both files have, as rows and as a table."""
    one, two = read_evaluation(first), read_evaluation(second)
    theirs = {result.metric: result for result in two.results}
    shared = [result for result in one.results if result.metric in theirs]
    if not shared:
        told = [", ".join(r.metric for r in part.results) for part in (one, two)]
        raise SpecError(
            f"`{first}` and `{second}` have no number in common: {told[0]} and {told[1]}.",
            "Measure the same metrics on as many images.",
        )
    for result in shared:
        differing = differences(result.protocol, theirs[result.metric].protocol)
        if differing:
            raise SpecError(
                f"`{result.metric}` was not measured alike: {'; '.join(differing)}.",
                "Numbers under different protocols do not compare: measure one of them again.",
            )
    rows = [
        {
            "metric": result.metric,
            "first": result.value,
            "second": theirs[result.metric].value,
            "difference": theirs[result.metric].value - result.value,
        }
        for result in shared
    ]
    return rows, comparison_view(rows, (first.stem, second.stem))


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """What two protocols do not agree on."""
    mine, other = flat(first), flat(second)
    return [
        f"{key} is {mine.get(key, 'not said')} and {other.get(key, 'not said')}"
        for key in sorted({*mine, *other})
        if mine.get(key) != other.get(key)
    ]


def read_evaluation(path: Path) -> Evaluation:
    """What `dimo eval ... --json` wrote."""
    if not path.exists():
        raise MissingError(f"There is no file `{path}`.", "Make it with `dimo eval ... --json`.")
    try:
        return Evaluation.read(parse_json(read_text(path, MOST_DOCUMENT)))
    except ValueError:
        raise SpecError(
            f"`{path}` is not a result of `dimo eval`.", "Make it with `dimo eval ... --json`."
        ) from None
