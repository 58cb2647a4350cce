"""What to do after a run, as commands to paste."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dimo_cli.console import next_steps
from dimo_cli.errors import DimoError
from dimo_cli.reporting.collect import RunRecord
from dimo_cli.teachers.registry import load_skeleton

TEACHER, DRAWN = "teacher:16", 8


@dataclass(frozen=True)
class FurtherStep:
    """A command, and what it is for."""

    what: str
    command: str


def further_steps(run: RunRecord, conditions: Sequence[str]) -> list[FurtherStep]:
    """Look at the student, measure it, publish it; first of all finish a run that is not."""
    run_name = next_steps.from_here(run.folder)
    found = []
    if not run.is_finished:
        going_on = next_steps.resume(run.folder, is_refinement=run.is_refinement)
        found.append(("Go on with the run", going_on))
    if run.manifest is not None:
        if (asked := words_of(run, conditions)) is not None:
            beside = ["compare", run_name, TEACHER, *asked, "-n", DRAWN, "--animate", "steps.gif"]
            drawing = ["sample", "--student", run_name, *asked, "-n", DRAWN]
            found += [
                ("Draw with the student", next_steps.command(*drawing)),
                ("See it beside its teacher", next_steps.command(*beside)),
            ]
        found += [
            ("Play with it in the browser", next_steps.command("play", run_name)),
            ("Measure all that can be measured", next_steps.command("eval", "all", run_name)),
        ]
    return [FurtherStep(what, command.strip("`")) for what, command in found]


def words_of(run: RunRecord, conditions: Sequence[str]) -> list[str] | None:
    """What a command says that draws with the student; None where that is not known."""
    if run.spec is None:
        return None
    try:
        if not load_skeleton(run.spec.teacher).takes_prompts:
            return []
    except DimoError:
        return None
    prompt = next(iter(conditions), None)
    return None if prompt is None else ["--prompt", prompt]
