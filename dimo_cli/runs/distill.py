"""A run from spec to student: train, draw, save, and measure against the teacher.

run.yaml  run.json  log.jsonl  checkpoints/step-N/  samples/step-N.png  student/  summary.json
effort.jsonl  origins.json  notes.txt  comparison/  report.html  diverged.json
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimo_cli.console import next_steps
from dimo_cli.console.live import View
from dimo_cli.distributed.ranks import (
    as_first_says,
    first_ahead,
    is_first,
    joined_ranks,
    part,
    wait_for_all,
)
from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.objectives.registry import named_objectives
from dimo_cli.engine.schedules import noise_over_spread
from dimo_cli.errors import DivergedError, NotFinite, SpecError
from dimo_cli.evaluation.yardstick import Measurement, check_measurable
from dimo_cli.files.locking import locked, refuse_if_locked
from dimo_cli.files.png import Pixels, enlarge, save_png
from dimo_cli.files.writing import tidy, write_whole_text, writing_to
from dimo_cli.hub.datasets import COMMIT
from dimo_cli.planning.fitting import fitted
from dimo_cli.run_folder.alarms import REMEDIES, told
from dimo_cli.run_folder.checkpoints import newest_contents, spec_of
from dimo_cli.run_folder.contents import left_overs
from dimo_cli.run_folder.effort import hardware_name, recorded_effort
from dimo_cli.run_folder.identity import check_owner, identity_of, new_identity
from dimo_cli.run_folder.listing import keep_divergence
from dimo_cli.run_folder.naming import CHECKPOINTS
from dimo_cli.run_folder.nats import teacher_kl_of
from dimo_cli.run_folder.origins import keep_origins
from dimo_cli.run_folder.state import DIVERGED, SUMMARY, is_refinement
from dimo_cli.runs.closing import AtBest, Closing, comparison, leave_report
from dimo_cli.runs.prompts import attach_prompts, with_commits
from dimo_cli.runs.supplies import distilling
from dimo_cli.runs.tables import best_teacher, ratio
from dimo_cli.runs.watcher import RunWatcher
from dimo_cli.sampling.previews import draw_comparison
from dimo_cli.specs.checkpoint import Owner, fixed_settings
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.manifest import Choice, TeacherFacts
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.render import to_yaml
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.students.folder import check_replaceable, facts_of_teacher, save_student
from dimo_cli.students.student import Student
from dimo_cli.teachers.protocol import Backbone, Teacher
from dimo_cli.teachers.registry import check_teacher, load_whole
from dimo_cli.training.progress import check_goes_on
from dimo_cli.training.stopping import Interrupted
from dimo_cli.training.tracking import check_tracker
from dimo_cli.training.trainer import Trainer


def check_measurable_run(spec: DistillSpec) -> None:
    """Refuse a run whose numbers nobody can measure or track, before anything is loaded."""
    check_teacher(spec.teacher.name)
    check_tracker(spec.monitor.tracker)
    named_objectives(spec)
    check_measurable(spec)


@dataclass(frozen=True)
class RunResult:
    """What a finished run has to show."""

    folder: Path
    student: Student
    metric: str
    rows: list[Measurement]
    alarms: tuple[str, ...] = ()
    """What was wrong when it ended, with the remedies."""
    best: AtBest | None = None
    """Its best checkpoint, measured as the rows are, where that is not the last one."""

    def summary(self) -> dict[str, Any]:
        """The result as one JSON document."""
        document: dict[str, Any] = {
            "run": str(self.folder),
            "student": str(self.folder / "student"),
            "weights_sha256": self.student.manifest.weights_sha256,
        }
        if self.alarms:
            document["alarms"] = list(self.alarms)
        if self.rows:
            student, best = self.rows[-1], best_teacher(self.rows)
            document |= {
                f"{self.metric}_student": student.value,
                f"{self.metric}_teacher_best": best.value,
                f"{self.metric}_over_teacher_best": ratio(student.value, best.value),
                "speed_up_over_teacher_best": best.seconds_per_image / student.seconds_per_image,
                "table": [score.as_dict() for score in self.rows],
            }
        if self.best is not None:
            document["best_checkpoint"] = self.best.as_dict()
        return document


def prepare_folder(spec: DistillSpec, folder: Path) -> None:
    """Begin a run folder with its resolved spec, refusing one that is taken."""
    if (folder / "run.yaml").exists():
        again = next_steps.resume(folder, is_refinement=is_refinement(folder))
        raise SpecError(
            f"`{folder}` already holds a run.",
            f"Continue it with {again}, or choose another `--out`.",
        )
    refuse_left_overs(folder)
    new_identity(folder)
    write_whole_text(folder / "run.yaml", to_yaml(spec))


def refuse_left_overs(folder: Path) -> None:
    """Refuse a folder with something that a new run would write over or delete."""
    if found := left_overs(folder):
        raise SpecError(
            f"`{folder}` has no run.yaml, but {' and '.join(found)}, which a new run would write "
            "over.",
            "Choose another `--out`, or move them away. To continue a run that they are of, bring "
            "its run.yaml back.",
        )


def continue_folder(spec: DistillSpec, folder: Path) -> None:
    """Check what a continuation changes and write its spec over the old one."""
    check_continuation(spec, folder)
    check_replaceable(folder / "student")
    write_whole_text(folder / "run.yaml", to_yaml(spec))


def check_continuation(spec: DistillSpec, folder: Path) -> None:
    """Refuse a continuation that would make another run.

    What the run was trained with is what its checkpoints say; run.yaml may have been edited.
    """
    trained_with = None
    if newest := newest_contents(folder):
        place = folder / CHECKPOINTS / f"step-{newest.step}"
        check_owner(place, newest, Owner(run=identity_of(folder)))
        check_goes_on(newest.step or 0, spec.train.steps)
        trained_with = spec_of(newest, place)
    written = folder / "run.yaml"
    before = trained_with or resolve_spec(type(spec), file=written, environment={}).spec
    check_resume(before, spec)


def teacher_before(folder: Path) -> TeacherFacts | None:
    """The teacher that a run's newest checkpoint names; None where there is none."""
    newest = newest_contents(folder)
    return newest.teacher if newest else None


def commit_of_teacher(folder: Path, teacher: TeacherSource, resume: bool) -> str | None:
    """The commit that a run which goes on has its teacher at; None: as the spec says.

    The same in every process.
    """
    before = teacher_before(folder) if resume and is_first() else None
    revision = before.revision if before and before.name == teacher.name else ""
    return as_first_says(revision if COMMIT.fullmatch(revision) else None)


def check_same_teacher(folder: Path, teacher: TeacherFacts) -> None:
    """Refuse to go on with another revision of a teacher, or with adapters over other weights."""
    before = teacher_before(folder)
    if before is None:
        return
    if before.revision != teacher.revision:
        raise SpecError(
            f"`{folder}` was begun with revision {before.revision} of `{teacher.name}`, and here "
            f"it is revision {teacher.revision}.",
            "Go on where it has that revision (a built-in teacher's changes with dimo's version), "
            "or start a new run with `--out`.",
        )
    if before.fingerprint is not None and before.fingerprint != teacher.fingerprint:
        raise SpecError(
            f"The weights of `{teacher.name}` are not those that the adapters of `{folder}` were "
            "trained over.",
            f"Load the teacher at revision {teacher.revision} as it was when the run began.",
        )


def check_resume(old: DistillSpec, new: DistillSpec) -> None:
    """Refuse to continue a run under settings that would have made another one."""
    before, after = (flat(fixed_settings(spec)) for spec in (old, new))
    changed = [path for path in sorted({*before, *after}) if before.get(path) != after.get(path)]
    if changed:
        told = [f"`{path}`: {before.get(path)} before, {after.get(path)} now" for path in changed]
        raise SpecError(
            f"A resumed run cannot change {', '.join(f'`{path}`' for path in changed)}.",
            f"{'; '.join(told)}. Put it back, in `run.yaml` or in `--set`: only train.steps, log "
            "and checkpoint intervals and monitor.* may change. Start a new run for anything else.",
        )


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dictionary by dotted paths."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


@joined_ranks()
def distill(
    spec: DistillSpec,
    folder: Path,
    view: View,
    resume: bool = False,
    origins: Mapping[str, str] | None = None,
    watching: Callable[[DistillSpec, Teacher, Path, View], RunWatcher] = RunWatcher,
) -> RunResult | None:
    """Train a student in `folder`, save it, and measure it beside its teacher.

    `origins` says who set which value of the spec; it is kept in the folder for the report.
    `watching` makes who looks on and may end the run. Of several processes only the first one has
    a result.
    """
    check_measurable_run(spec)
    if is_first():
        refuse_if_locked(folder)
        spec = with_commits(spec, view.note)
    spec = as_first_says(spec)
    commit = commit_of_teacher(folder, spec.teacher, resume)
    with first_ahead():
        teacher = load_whole(spec.teacher, view.note, commit)
        attach_prompts(teacher, spec, view.note)
    watcher = watching(spec, teacher, folder, view)
    method = distilling(spec, teacher, view.note)
    return run_method(spec, teacher, folder, watcher, resume, origins, method)


def run_method(
    spec: DistillSpec,
    teacher: Teacher,
    folder: Path,
    watcher: RunWatcher,
    resume: bool,
    origins: Mapping[str, str] | None = None,
    method: Callable[..., Distillation] | None = None,
) -> RunResult | None:
    """Train by a method (Di[M]O alone if none is given), save the student, and measure it."""
    may_cut = spec.train.micro_batch == "auto"
    trainer = Trainer(fitted(spec, watcher.view.note), teacher, folder, watcher, method, may_cut)
    if not is_first():
        wait_for_all()  # until the folder is there, or the first process has refused it
        train_with_all(trainer, resume)
        return None
    # Only now, when everything that could be refused has been: a refused run leaves no folder.
    again = next_steps.resume(folder, is_refinement=isinstance(spec, RefineSpec))
    hint = f"Mend that, then continue with {again}: the checkpoints in it are whole."
    with writing_to(folder, hint), locked(folder, say=watcher.view.note):
        tidy(folder)
        if resume:
            continue_folder(spec, folder)
        else:
            prepare_folder(spec, folder)
        facts = facts_of_teacher(spec, teacher)
        if resume:
            check_same_teacher(folder, facts)
        trainer.checkpoints.owner = Owner.of(identity_of(folder), spec, facts)
        if origins is not None:
            keep_origins(folder, origins)
        wait_for_all()
        note_noise(spec, teacher, watcher.view)
        return train_and_measure(spec, teacher, trainer, watcher, resume)


def note_noise(spec: DistillSpec, teacher: Teacher, view: View) -> None:
    """Say how strong the noise on the student's embeddings is for this teacher."""
    sigma = spec.init.embed_noise.sigma
    if sigma:
        times = noise_over_spread(sigma, teacher.backbone, teacher.space)
        view.note(f"Embedding noise: sigma {sigma:g} is {times:.2g} of the embeddings' spread.")


def train_with_all(trainer: Trainer, resume: bool) -> Backbone:
    """Train with all processes of the job; what comes after is for one alone."""
    try:
        backbone = trainer.run(resume)
    except Interrupted:
        part()
        raise
    part()
    return backbone


def last_preview(watcher: RunWatcher, backbone: Backbone) -> Pixels:
    """What the student draws; without finite images there is none to save."""
    try:
        return watcher.preview(backbone)
    except NotFinite as problem:
        raise DivergedError(
            f"No student was saved. {problem.message}",
            "Start a new run with lower learning rates; the checkpoints of this one are kept.",
        ) from problem


def refuse_stopped(watcher: RunWatcher, trainer: Trainer) -> None:
    """End a run that an alarm stopped: its checkpoint is written, and it has no student."""
    if (name := watcher.stopped_on()) is None:
        return
    step, folder = trainer.progress.step, trainer.folder
    anyway = next_steps.resume(
        folder, is_refinement=is_refinement(folder), sets=["monitor.stop_on=[]"]
    )
    raise DivergedError(
        f"Stopped at step {step:,}, as `monitor.stop_on` has {name}: {watcher.alarms.active[name]}",
        f"{REMEDIES[name]} Its checkpoint is {trainer.checkpoints.path(step)}; to go on all the "
        f"same: {anyway}.",
    )


def train_and_measure(
    spec: DistillSpec, teacher: Teacher, trainer: Trainer, watcher: RunWatcher, resume: bool
) -> RunResult:
    """All that happens in a run folder once it is this process's alone."""
    folder, view, accelerator = trainer.folder, watcher.view, trainer.accelerator
    hardware = hardware_name(accelerator.device, accelerator.num_processes)
    (folder / DIVERGED).unlink(missing_ok=True)
    try:
        with recorded_effort(folder, hardware, lambda: (watcher.first_step, trainer.progress.step)):
            backbone = train_with_all(trainer, resume)
        refuse_stopped(watcher, trainer)
        preview = last_preview(watcher, backbone)
        step = trainer.progress.step
        chosen = Choice(rule="last", step=step)
        kl = teacher_kl_of(folder)
        student = save_student(folder / "student", spec, teacher, backbone, step, chosen, kl)
        save_png(
            enlarge(preview, 320),
            folder / "student" / "preview.png",
            {**watcher.about_preview(), "dimo.student": student.short_id},
        )
        closing = Closing([])
        if spec.monitor.table_samples and watcher.yardstick:
            closing = comparison(student, spec, watcher.yardstick, folder, view)
            draw_comparison(student, spec.monitor.teacher_steps, watcher.conditions(), folder)
    except DivergedError as problem:
        keep_divergence(folder, problem.message)
        raise
    finally:
        view.stop()
    alarms = tuple(told(name, problem) for name, problem in watcher.alarms.active.items())
    metric = spec.monitor.metric
    result = RunResult(folder, student, metric, closing.rows, alarms, closing.best)
    write_whole_text(folder / SUMMARY, json.dumps(result.summary(), indent=2) + "\n")
    leave_report(folder, view)
    return result
