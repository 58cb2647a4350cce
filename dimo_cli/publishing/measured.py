"""The numbers of a student's card: from its run and from `dimo eval`, each with its protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dimo_cli.cards.facts import Measured, Row
from dimo_cli.errors import SpecError
from dimo_cli.evaluation.comparing import read_evaluation
from dimo_cli.evaluation.tables import flat
from dimo_cli.files.reading import MOST_DOCUMENT, read_text
from dimo_cli.files.untrusted import parse_json
from dimo_cli.run_folder.state import SUMMARY

# Who drew, which the card says above.
ITSELF = ("target", "network", "student_sha256", "teacher", "method")


def of_evaluations(files: Sequence[str], weights_sha256: str) -> list[Measured]:
    """The numbers of files that `dimo eval ... --json` wrote about this student."""
    found: list[Measured] = []
    for name in files:
        evaluation = read_evaluation(Path(name).expanduser())
        subject = evaluation.subject
        if subject.get("target") != "student":
            raise SpecError(
                f"`{name}` is not about a student: it measures {subject.get('target')}.",
                "Measure the student: `dimo eval all STUDENT --json`.",
            )
        check_student(name, str(subject.get("student_sha256")), weights_sha256)
        sampler = {key: subject[key] for key in subject if key not in ITSELF}
        for result in evaluation.results:
            protocol = flat({**result.protocol, "sampler": sampler})
            found.append(Measured(result.metric, result.value, protocol))
    return found


def of_run(run: Path, weights_sha256: str) -> tuple[list[Measured], list[Row]]:
    """The student's number in the closing table of its run, and the whole table."""
    path = run / SUMMARY
    if not path.is_file():
        return [], []
    try:
        summary = parse_json(read_text(path, MOST_DOCUMENT))
        check_student(str(path), str(summary["weights_sha256"]), weights_sha256)
        scores: list[dict[str, Any]] = summary.get("table", [])
        rows = [Row(sampler_name(s["sampler"]), s["metric"], float(s["value"])) for s in scores]
        own = [s for s in scores if s["sampler"]["network"] == f"student:{weights_sha256[:12]}"]
        measured = [Measured(s["metric"], float(s["value"]), protocol_of(s)) for s in own]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise SpecError(
            f"`{path}` is damaged.", "Remove it, or push the run's `student` folder without it."
        ) from None
    return measured, rows


def protocol_of(score: Mapping[str, Any]) -> dict[str, str]:
    """What a number of the closing table depends on, its sampler's settings among the rest."""
    results = ("metric", "value", "accuracy", "seconds_per_image", "sampler", "seed", "details")
    sampler = {key: value for key, value in score["sampler"].items() if key not in ITSELF}
    facts = {key: value for key, value in score.items() if key not in results}
    return flat({**facts, "sampler": {"seed": score["seed"], **sampler}})


def sampler_name(sampler: Mapping[str, Any]) -> str:
    """The teacher at some number of steps, or the student."""
    who, _, _ = str(sampler["network"]).partition(":")
    steps = sampler["steps"]
    return f"{who}, {steps} step{'' if steps == 1 else 's'}"


def check_student(source: str, found: str, weights_sha256: str) -> None:
    """Refuse numbers of another student."""
    if found != weights_sha256:
        raise SpecError(
            f"`{source}` has numbers of the student {found[:12]}, and this one is "
            f"{weights_sha256[:12]}.",
            "Measure this student again, or leave the file out.",
        )
