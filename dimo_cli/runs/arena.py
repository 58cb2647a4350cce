"""An arena from spec to table: every method is trained with every seed, and measured alike.

FOLDER/runs/, FOLDER/tuning/   the runs (`runs/bouts`); what is finished is not done again
FOLDER/arena.json              all numbers
FOLDER/arena.md                the table, the grid of learning rates and the commands
FOLDER/arena.html              the same with curves and pictures
FOLDER/also/                   the arena of the second budget, if there is one
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch

from dimo_cli.console.live import View
from dimo_cli.distributed.ranks import joined_ranks
from dimo_cli.errors import DivergedError, MissingError, NotFinite, SpecError
from dimo_cli.evaluation.evaluate import evaluate
from dimo_cli.files.writing import write_whole_text
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.references import has_builtin_reference
from dimo_cli.reporting.arena_page import write_arena_page
from dimo_cli.run_folder.checkpoints import newest_contents
from dimo_cli.run_folder.effort import effort_of
from dimo_cli.run_folder.log import records_of
from dimo_cli.run_folder.naming import read_json
from dimo_cli.run_folder.nats import teacher_kl
from dimo_cli.run_folder.state import DIVERGED
from dimo_cli.runs.arena_table import (
    ArenaResult,
    Contender,
    Outcome,
)
from dimo_cli.runs.arena_text import markdown, page_of
from dimo_cli.runs.bouts import Bout, Entrant, again, entrants, with_rates
from dimo_cli.runs.distill import distill
from dimo_cli.runs.sweep import refuse_other_run, with_its_commits
from dimo_cli.runs.watcher import RunWatcher
from dimo_cli.specs.arena import METHODS, ArenaSpec
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.evaluate import EvalSpec, MetricName
from dimo_cli.specs.metrics import WITH_REFERENCE, is_better
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.teachers.protocol import Teacher

TABLE, TEXT, PAGE = "arena.json", "arena.md", "arena.html"
ALSO = "also"  # the folder of the second budget
SAMPLING_SEED = 20_000  # that of `dimo eval`
BESIDE_A_SCORE = 1000  # images of an FID that is to show a collapse, and no more
Begin = Callable[[Bout], View]
Say = Callable[[str], None]


class Timed(RunWatcher):
    """Ends a run when it has trained for so many seconds, those of earlier starts included."""

    def __init__(
        self,
        spec: DistillSpec,
        teacher: Teacher,
        folder: Path,
        view: View,
        *,
        seconds: float,
    ) -> None:
        super().__init__(spec, teacher, folder, view)
        before = effort_of(folder)
        self.left = seconds - (before.hours * 3600 if before else 0.0)
        self.until = math.inf

    def on_start(self, step: int) -> None:
        super().on_start(step)
        self.until = time.monotonic() + self.left

    def should_stop(self) -> str | None:
        if time.monotonic() >= self.until:
            return "Stopped, as the time of the arena's budget is over."
        return super().should_stop()


def run_arena(
    asked: ArenaSpec, sets: Sequence[str], folder: Path, begin: Begin, say: Say
) -> ArenaResult:
    """Carry out and measure all runs that are not done, and write the table and the page."""
    found = entrants(asked, sets, folder)
    for one in found:
        for bout in one.all_bouts:
            if not one.tuning or bout in one.tuning:
                refuse_other_run(bout.trial)
    result = ArenaResult(asked, (), tuple(sets), folder)
    refuse_other_budget(asked, folder)
    if asked.second is not None:
        refuse_other_budget(asked.second, folder / ALSO)
    if not (folder / TABLE).is_file():
        write_result(result, folder)
    for one in found:
        contender = contend(asked, one, sets, folder, begin, say)
        result = replace(result, contenders=(*result.contenders, contender))
        write_result(result, folder)
    if asked.second is not None:
        result = with_second(result, asked.second, begin, say)
    return result


def with_second(result: ArenaResult, asked: ArenaSpec, begin: Begin, say: Say) -> ArenaResult:
    """Carry out the same arena within its other budget, an arena of its own in a folder inside."""
    place, sets = result.folder / ALSO, result.sets
    factors = {one.method: one.factor for one in result.contenders}
    second = ArenaResult(asked, (), sets, place)
    for one in entrants(asked, sets, place):
        if one.refusal is None and factors[one.method] != 1:
            one = with_rates(asked, one, factors[one.method], sets, place)
        contender = contend(asked, one, sets, place, begin, say)
        contender = replace(contender, factor=factors[one.method])
        second = replace(second, contenders=(*second.contenders, contender))
        write_result(second, place)
        result = replace(result, second=second)
        write_result(result, result.folder)
    return result


def refuse_other_budget(asked: ArenaSpec, folder: Path) -> None:
    """Refuse a folder whose runs were given another budget than this arena's."""
    path = folder / TABLE
    if not path.is_file():
        return
    before = read_json(path).get("budget")
    if before is None:
        raise SpecError(
            f"`{path}` is damaged, or no table of an arena.",
            "Choose another folder with `--out`, or move that file away: the table is made again "
            "from the runs.",
        )
    if before != asked.budget:
        raise SpecError(
            f"`{folder}` is of an arena with `--budget {before}`, and this one has {asked.budget}.",
            "Choose another folder with `--out`.",
        )


def contend(
    asked: ArenaSpec,
    one: Entrant,
    sets: Sequence[str],
    folder: Path,
    begin: Begin,
    say: Say,
) -> Contender:
    """All runs of a method; one that cannot be used with this teacher says why."""
    title = METHODS[one.method].title
    if one.refusal is not None:
        return Contender(one.method, title, refusal=one.refusal)
    steps = asked.steps_of(one.method)
    try:
        tuned = [outcome_of(bout, steps[:1], asked, begin, say) for bout in one.tuning]
        factor = best_factor(tuned)
        if factor != 1:
            one = with_rates(asked, one, factor, sets, folder)
        outcomes = [outcome_of(bout, steps, asked, begin, say) for bout in one.bouts]
    except Refused as refusal:
        say(f"{title} cannot be used here. {refusal}")
        return Contender(one.method, title, refusal=str(refusal))
    command = again(asked, one.bouts[0])
    return Contender(one.method, title, tuple(outcomes), tuple(tuned), factor, command)


class Refused(Exception):
    """A method cannot be used with a teacher, as was found when its run was prepared."""


def outcome_of(
    bout: Bout, steps: Sequence[int], asked: ArenaSpec, begin: Begin, say: Say
) -> Outcome:
    """Train a run unless it is finished, and measure its student in numbers of steps."""
    refuse_other_run(bout.trial)
    problem = None
    if not has_student(bout):
        problem = reason_of_divergence(bout) or carried_out(asked, bout, begin)
    outcome = told_by(bout, problem)
    if not has_student(bout):
        return outcome
    say(f"Measuring {METHODS[bout.method].title}, seed {bout.seed}")
    try:
        with joined_ranks():
            numbers = {each: measured(asked, bout, each, say) for each in steps}
    except NotFinite as broken:
        return replace(outcome, problem=broken.message)
    return replace(outcome, numbers=numbers)


def has_student(bout: Bout) -> bool:
    """Whether a run came to its student."""
    return (bout.folder / "student" / "dimo.json").is_file()


def reason_of_divergence(bout: Bout) -> str | None:
    """Why a run could not be recovered, which the same run could not a second time."""
    path = bout.folder / DIVERGED
    if not path.is_file():
        return None
    return str(read_json(path).get("reason", "it diverged"))


def carried_out(asked: ArenaSpec, bout: Bout, begin: Begin) -> str | None:
    """Train a run, from where it stopped if it did; what went wrong if it diverged."""
    trial = with_its_commits(bout.trial)
    seconds = asked.limit.seconds
    watching = RunWatcher if seconds is None else partial(Timed, seconds=seconds)
    has_begun = (bout.folder / "run.yaml").is_file()
    view = begin(bout)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # that of the run before
    try:
        distill(
            trial.plan.spec, bout.folder, view, has_begun, trial.plan.origins, watching=watching
        )
    except DivergedError as problem:  # as much a result as a number
        return problem.message
    except (SpecError, MissingError) as problem:
        if (bout.folder / "run.yaml").is_file():
            raise
        raise Refused(problem.message) from problem
    finally:
        view.stop()
    return None


def measured(asked: ArenaSpec, bout: Bout, steps: int, say: Say) -> dict[str, float]:
    """The numbers of a student in so many steps; those that were measured before are cached."""
    numbers: dict[str, float] = {}
    for question in questions(bout):
        spec = EvalSpec(
            target=str(bout.folder),
            metrics=question.metrics,
            samples=asked.samples or question.images,
            reference=bout.spec.monitor.reference,
            prompts=question.prompts,
            sampler=SamplerSpec(seed=SAMPLING_SEED, steps=steps),
        )
        found = evaluate(spec, HubStore(None, say=say))
        numbers |= {name: found[name] for name in question.wanted}
    return numbers


@dataclass(frozen=True)
class Question:
    """An evaluation of a student, and which of its numbers are told."""

    metrics: tuple[MetricName, ...]
    wanted: tuple[str, ...]
    prompts: str | None = None
    images: int | None = None


def questions(bout: Bout) -> list[Question]:
    """What is asked of a student.

    A score of prompts does not see a student that draws one picture for each of them: FID, which
    does, is asked as well where real images ship with the teacher.
    """
    monitor = bout.spec.monitor
    if monitor.metric in WITH_REFERENCE:
        return [Question(("fid", "pr"), ("fid", "precision", "recall"), monitor.prompts)]
    score = cast(MetricName, monitor.metric)
    scored = Question((score,), (score,), monitor.prompts)
    if not has_builtin_reference(bout.spec.teacher.name):
        return [scored]
    return [scored, Question(("fid",), ("fid",), images=BESIDE_A_SCORE)]


def told_by(bout: Bout, problem: str | None) -> Outcome:
    """What the folder of a run tells of its training."""
    lines = records_of(bout.folder / "log.jsonl")
    speeds = [line["images_per_second"] for line in lines if line.get("images_per_second")]
    train = bout.spec.train
    effort, kl = effort_of(bout.folder), teacher_kl(lines)
    newest = newest_contents(bout.folder)
    done = (
        newest.step if newest else None
    ) or 0  # one that ended by its time has not logged its last step
    samples = train.batch_size * train.accumulate
    return Outcome(
        run=bout.folder,
        seed=bout.seed,
        factor=bout.factor,
        steps=done,
        forwards=round(bout.forwards * done / train.steps),
        seconds=effort.hours * 3600 if effort else None,
        seconds_per_step=samples / median(speeds) if speeds else None,
        memory_gib=memory_of(bout, lines),
        teacher_kl=kl.value if kl else None,
        problem=problem,
    )


def memory_of(bout: Bout, lines: Sequence[Mapping[str, Any]]) -> float | None:
    """The most GiB that a run had on its card.

    On a CPU nobody knows: all runs share a process, whose peak never falls from run to run.
    """
    if not torch.cuda.is_available() or bout.spec.train.device == "cpu":
        return None
    return max((line.get("peak_memory_gib") or 0.0 for line in lines), default=0.0) or None


def best_factor(tuned: Sequence[Outcome]) -> float:
    """The factor of the learning rates whose run did best in its fewest steps; 1 without runs."""
    best: Outcome | None = None
    for outcome in tuned:
        name, value = outcome.first_number
        if value is not None and (
            best is None or is_better(name, value, best.first_number[1] or 0)
        ):
            best = outcome
    return best.factor if best else 1.0


def write_result(result: ArenaResult, folder: Path) -> None:
    """The table for machines, for people, and with curves and pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = result.document()
    write_whole_text(folder / TABLE, json.dumps(document, indent=2) + "\n")
    write_whole_text(folder / TEXT, markdown(result))
    write_arena_page(page_of(result), folder / PAGE)
