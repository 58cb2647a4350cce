"""From the plan of a run to a run that somebody watches: for `distill` and `refine`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from dimo_cli.commands.launching import check_launch, in_processes, start_processes
from dimo_cli.commands.options import RunOptions
from dimo_cli.commands.plan import forecast_view
from dimo_cli.console import next_steps
from dimo_cli.console.output import out
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.run_folder.state import check_resumable, finished_as, is_refinement
from dimo_cli.runs.tables import best_sentence, comparison_sentence, comparison_table
from dimo_cli.specs.launch import LaunchSpec
from dimo_cli.specs.resolve import Plan
from dimo_cli.training.stopping import Interrupted

if TYPE_CHECKING:
    from dimo_cli.console.live import View
    from dimo_cli.runs.distill import RunResult

SAMPLED = 40  # images of the command that draws with a new student


def carry_out_run(
    run: RunOptions,
    launch: LaunchSpec,
    plan: Plan[Any],
    folder: Path,
    work: Callable[[Plan[Any], Path, bool], None],
) -> None:
    """Show what a run would do, or do it in as many processes as are asked for."""
    check_launch(launch, plan.spec, run.has_folder)
    if run.full and not run.dry_run:
        raise SpecError("`--full` is for `--dry-run`: nothing else shows the spec.")
    if run.dry_run:
        if run.resume:
            from dimo_cli.runs.distill import check_continuation

            check_continuation(plan.spec, folder)
        show_plan(plan, folder, launch, run.full)
        return
    if run.resume and (summary := finished_as(folder, plan.spec)):
        say_finished(folder, plan.spec.train.steps, summary)
        return
    if not run.force and "RANK" not in os.environ:  # whoever started this process has looked
        from dimo_cli.planning.plan import refuse_without_memory

        refuse_without_memory(plan.spec, launch, "`--force`")
    if not start_processes(launch):
        work(plan, folder, run.resume is not None)


def show_plan(plan: Plan[Any], folder: Path, launch: LaunchSpec, full: bool = False) -> None:
    """Plan, estimates and spec of a run; refused if it does not fit the machine."""
    from dimo_cli.planning.plan import forecast
    from dimo_cli.runs.inputs import check_inputs
    from dimo_cli.runs.trial import hours_of

    for line in check_inputs(plan.spec):
        out.note(line)
    found = forecast(plan, folder, launch)
    hours = hours_of(found)
    document = {**found.document(), "hours": hours.document()}
    out.result(document, forecast_view(found, full, hours))
    room = found.room
    if room.available is not None and room.advice is not None:
        out.note(room.sentence)
        out.hint(room.advice)
        raise typer.Exit(MissingError.exit_code)


def continued_folder(run: RunOptions, *, is_refinement_wanted: bool) -> Path:
    """The folder of a run that goes on; refused where it holds none, or one of another kind."""
    folder = run.resume
    assert folder is not None
    check_resumable(folder)
    found = is_refinement(folder)
    if found != is_refinement_wanted:
        kind = "refinement of a student" if found else "distillation of a teacher"
        right = next_steps.resume(folder, is_refinement=found, sets=run.settings)
        raise SpecError(f"`{folder}` holds the {kind}.", f"Continue it with {right}.")
    return folder


def say_finished(folder: Path, steps: int, summary: dict[str, Any]) -> None:
    """A run to which nothing is to be added: its result again, and how to add to it."""
    out.result(
        summary, Text(f"`{folder}` is finished: its student is of step {steps:,}, the last.")
    )
    longer = next_steps.resume(
        folder, is_refinement=is_refinement(folder), sets=[f"train.steps={2 * steps}"]
    )
    out.hint(f"Give it more steps with {longer}.")


def show_run(start: str, folder: Path, work: Callable[[View], RunResult | None]) -> None:
    """Watch a run in the terminal, then show what came of it."""
    view = view_titled(f"dimo: {start} -> {folder}")
    try:
        result = work(view)
    except Interrupted as stop:
        if out.silent:  # of several processes the first one says it, and is waited for
            raise typer.Exit from None
        out.note(f"Stopped at step {stop.step}; checkpoint written to {stop.checkpoint}.")
        as_before = ", and with as many processes as before" if in_processes() else ""
        again = next_steps.resume(folder, is_refinement=is_refinement(folder))
        out.hint(f"Continue with {again}{as_before}.")
        raise typer.Exit(stop.exit_code) from None
    if result is None:
        return
    saved = Text(f"Student saved to {folder / 'student'}")
    if (folder / "report.html").is_file():
        saved.append(f", report to {folder / 'report.html'}")
    for alarm in result.alarms:
        saved.append(f"\n{alarm}", "bad")
    shown: RenderableType = saved
    if result.rows:
        table = comparison_table(result.rows, result.best)
        if result.best and (told := best_sentence(result.rows[-1], result.best, folder)):
            saved.append(f"\n{told}")
        shown = Group(table, Text(""), comparison_sentence(result.rows), saved)
    out.result(result.summary(), shown)
    drawn = next_steps.sample(str(folder), prompt_for(result), SAMPLED)
    out.hint(f"Sample it with {drawn}.")


def view_titled(title: str, instead: str | None = None) -> View:
    """A live panel in a terminal; elsewhere lines, after a first one in place of the title."""
    from dimo_cli.console.live import LiveView, PlainView

    if not out.quiet and out.talk.is_terminal:
        return LiveView(out.talk, title)
    if instead is not None:
        out.note(instead)
    return PlainView((lambda line: None) if out.quiet else out.note)


def prompt_for(result: RunResult) -> str | None:
    """A prompt that the student was trained on; None where it takes classes."""
    from dimo_cli.sampling.previews import preview_conditions

    teacher = result.student.teacher
    return str(preview_conditions(teacher, 1)[0]) if teacher.takes_prompts else None
