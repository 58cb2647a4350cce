"""A run folder as an object: what a run was told, how it stands, and what it made."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimo_cli.run_folder.listing import (
    RunFacts,
    State,
    check_run,
    facts_of_run,
    find_runs,
    log_records,
)
from dimo_cli.run_folder.naming import BEST, checkpoint_names
from dimo_cli.run_folder.state import is_refinement, summary_of
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.resolve import resolve_spec

if TYPE_CHECKING:
    from dimo_cli.pipeline import OneStepPipeline

NO_NUMBERS = ("run", "student", "weights_sha256", "alarms")  # what else is in the summary


class Run:
    """A run in its folder, whoever started it: `distill`, `refine` or `resume`, or a command.

    It holds nothing but its `folder`, so it always tells how the run stands now. Wherever a
    function takes a student or a run by its name, it takes a `Run` as well.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """The run in a folder; refused where there is none."""
        self.folder = Path(folder).expanduser()
        check_run(self.folder)

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        facts = self.facts
        return f"<Run {self.folder}: {facts.state}, step {facts.step:,} of {facts.steps or 0:,}>"

    @property
    def facts(self) -> RunFacts:
        """What `dimo runs list` shows of it."""
        return facts_of_run(self.folder)

    @property
    def state(self) -> State:
        """`running`, `interrupted`, `finished` or `diverged`."""
        return self.facts.state

    @property
    def step(self) -> int:
        """The last step that was taken."""
        return self.facts.step

    @property
    def spec(self) -> DistillSpec | RefineSpec:
        """All its settings, as run.yaml has them."""
        model = RefineSpec if is_refinement(self.folder) else DistillSpec
        return resolve_spec(model, file=self.folder / "run.yaml", environment={}).spec

    @property
    def metrics(self) -> dict[str, Any]:
        """The numbers of the closing table, as in summary.json; empty where none were measured."""
        summary = summary_of(self.folder)
        return {name: value for name, value in summary.items() if name not in NO_NUMBERS}

    @property
    def alarms(self) -> list[str]:
        """What was wrong when it ended, with the cures."""
        return list(summary_of(self.folder).get("alarms", ()))

    def log(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl, one for every `train.log_every` steps."""
        return log_records(self.folder)

    @cached_property
    def student(self) -> OneStepPipeline:
        """The student, on the CPU; an unfinished run has none, but may have checkpoints."""
        return loaded(self.folder)

    @property
    def checkpoints(self) -> list[str]:
        """The names of its checkpoints: `step-N`, `best` where that is known, and `last`."""
        return checkpoint_names(self.folder)

    def checkpoint(self, name: str = BEST) -> OneStepPipeline:
        """The student as it was at a checkpoint: by default at the best one."""
        return loaded(f"{self.folder}@{name}")

    def report(self, file: str | os.PathLike[str] | None = None) -> Path:
        """Write the report, one HTML page, to report.html in its folder or to another file."""
        from dimo_cli.reporting.page import write_report

        return write_report(self.folder, Path(file or self.folder / "report.html").expanduser())


def loaded(name: str | os.PathLike[str]) -> OneStepPipeline:
    """A student as a pipeline."""
    from dimo_cli.pipeline import OneStepPipeline

    return OneStepPipeline.from_pretrained(name)


def list_runs(folder: str | os.PathLike[str] = "runs") -> list[Run]:
    """The runs in a folder and in the folders below it, by name."""
    return [Run(path) for path in find_runs(Path(folder).expanduser())]
