"""What a run folder holds, and whether anything is left to be done in it. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dimo_cli.errors import DimoError, MissingError
from dimo_cli.run_folder.naming import newest_facts, read_json
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.resolve import load_yaml, resolve_spec

SUMMARY = "summary.json"  # the last thing that a run writes
DIVERGED = "diverged.json"  # why a run could not be recovered; gone once it is continued
INTERVALS = ("log_every", "checkpoint_every", "keep_checkpoints")  # mean nothing once it is over


def check_resumable(run: Path) -> None:
    """Refuse a folder that nothing can go on in."""
    if not (run / "run.yaml").is_file():
        raise MissingError(
            f"`{run}` holds no run to resume: it has no run.yaml.",
            "Start one with `dimo distill --preset digits`.",
        )


def is_refinement(run: Path) -> bool:
    """Whether a run went on from a student, as its run.yaml says."""
    path = run / "run.yaml"
    try:
        return "gan" in load_yaml(path).values
    except (DimoError, OSError):
        return False


def summary_of(run: Path) -> dict[str, Any]:
    """The summary of the student in a run folder; empty where it is of an earlier one, or none."""
    summary, manifest = read_json(run / SUMMARY), read_json(run / "student" / "dimo.json")
    is_its = summary.get("weights_sha256") == manifest.get("weights_sha256")
    return summary if is_its else {}


def finished_as(run: Path, spec: DistillSpec) -> dict[str, Any] | None:
    """The summary of a run that a continuation by `spec` would add nothing to; else None.

    It has its student, of the last step that is asked for, and measured it as is asked for.
    """
    summary, manifest = summary_of(run), read_json(run / "student" / "dimo.json")
    training = manifest.get("training")
    steps = training.get("steps") if isinstance(training, dict) else None
    path = run / "run.yaml"
    if not summary or not (newest_facts(run).get("step") == steps == spec.train.steps):
        return None
    try:
        before = resolve_spec(type(spec), file=path, environment={}).spec
    except DimoError:
        return None
    intervals = {name: getattr(spec.train, name) for name in INTERVALS}
    train = before.train.model_copy(update=intervals)
    return summary if before.model_copy(update={"train": train}) == spec else None
