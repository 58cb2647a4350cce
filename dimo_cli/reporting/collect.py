"""What a run folder holds, read without trust: missing and damaged parts are named, not fatal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimo_cli.errors import DimoError, MissingError, SpecError
from dimo_cli.files.reading import MOST_DOCUMENT, MOST_LOG, MOST_SPEC, read_tail, read_text
from dimo_cli.files.untrusted import as_list, parse_json
from dimo_cli.hub.access import dimo_cache
from dimo_cli.reporting.inside import own_file, own_files
from dimo_cli.reporting.pictures import Picture, embed
from dimo_cli.run_folder.effort import EFFORT, effort_of
from dimo_cli.run_folder.log import is_number, numbers_of
from dimo_cli.run_folder.origins import NOTES, ORIGINS, read_origins
from dimo_cli.specs.base import Spec
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.explain import default_of, leaves, origin_of
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.render import scalar
from dimo_cli.specs.resolve import load_yaml, resolve_spec

if TYPE_CHECKING:
    from dimo_cli.run_folder.effort import Effort

NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Setting:
    """One value of a spec, and who set it."""

    path: str
    value: str
    origin: str
    description: str
    is_default: bool
    """Whether it is what it would be if nobody had set it."""

    @property
    def kind(self) -> str:
        """The sort of origin, in a word."""
        first = self.origin.split(" ")[0]
        known = ("default", "preset", "environment", "flag", "student", "not")
        return first if first in known else "file"


@dataclass
class RunRecord:
    """A distillation or a refinement as its folder tells it."""

    name: str
    folder: Path
    """As it was named."""
    settings: list[Setting] = field(default_factory=list)
    effort: Effort | None = None
    """Hours and hardware."""
    spec: DistillSpec | None = None
    run_yaml: str = ""
    records: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    samples: list[tuple[int, Path]] = field(default_factory=list)
    comparison: list[Picture] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The closing table: the teacher's rows, then the student's."""
    best: dict[str, Any] | None = None
    """What the student was at the best checkpoint, measured as the closing table is."""
    manifest: dict[str, Any] | None = None
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    @property
    def is_refinement(self) -> bool:
        """Whether it went on from a student."""
        return isinstance(self.spec, RefineSpec)

    @property
    def last_step(self) -> int:
        """The newest step that left a trace."""
        logged = [record["step"] for record in self.records[-1:]]
        return max([0, *logged, *(step for step, _ in self.samples)])

    @property
    def student_step(self) -> int | None:
        """The step that the student in the folder is of; None where that is not known."""
        training = (self.manifest or {}).get("training")
        steps = training.get("steps") if isinstance(training, dict) else None
        return steps if type(steps) is int else None

    @property
    def is_finished(self) -> bool:
        """Whether the student is of the last step; it is not while a longer run goes on."""
        if self.manifest is None:
            return False
        return self.student_step is None or self.last_step <= self.student_step


def collect(folder: Path) -> RunRecord:
    """Read a run folder."""
    if not folder.exists():
        raise MissingError(
            f"`{folder}` does not exist.", "Give the folder of a run, such as `runs/digits`."
        )
    if not any((folder / name).exists() for name in ("run.yaml", "log.jsonl")):
        raise MissingError(
            f"`{folder}` holds no run: there is no run.yaml, no log.jsonl and no result of "
            "`dimo tteo`.",
            "Give the folder that `dimo distill`, `dimo refine` or `dimo tteo` wrote to.",
        )
    run = RunRecord(folder.resolve().name, folder)
    read_spec(folder, run)
    read_log(folder, run)
    read_effort(folder, run)
    read_notes(folder, run)
    read_samples(folder, run)
    read_comparison(folder, run)
    read_student(folder, run)
    return run


def read_spec(folder: Path, run: RunRecord) -> None:
    """run.yaml, with the origin of each value."""
    path = own_file(folder, "run.yaml", run.damaged)
    if path is None:
        run.missing.append("run.yaml is missing: it is not known what was run.")
        return
    try:
        run.run_yaml = read_text(path, MOST_SPEC, "replace")
        values = load_yaml(path).values
        model = RefineSpec if "gan" in values else DistillSpec
        run.spec = resolve_spec(model, file=path, environment={}).spec
    except DimoError as problem:
        run.damaged.append(f"run.yaml cannot be read as a spec: {problem.message}")
        return
    origins = read_origins(folder) if own_file(folder, ORIGINS, run.damaged) else None
    if origins is None:
        run.missing.append("origins.json is missing: it is not known who set which value.")
    run.settings = settings_of(run.spec, origins or {})


def settings_of(spec: Spec, origins: Mapping[str, str]) -> list[Setting]:
    """Every value of a spec in its order."""
    found = []
    for leaf in leaves(spec):
        is_default = leaf.value == default_of(type(spec), leaf.path)
        origin = origin_of(leaf.path, origins) or ("default" if is_default else NOT_RECORDED)
        value = scalar(leaf.value)
        found.append(Setting(leaf.path, value, origin, leaf.description, is_default))
    return found


def read_log(folder: Path, run: RunRecord) -> None:
    """log.jsonl; a line that was cut short by a crash is counted."""
    path = own_file(folder, "log.jsonl", run.damaged)
    if path is None:
        run.missing.append("log.jsonl is missing: there are no curves.")
        return
    lines = [line for line in lines_from(path, run) if line.strip()]
    for line in lines:
        record = parsed(line)
        if isinstance(record, dict) and type(step := record.get("step")) is int and is_number(step):
            run.records.append(numbers_of(record))
    if broken := len(lines) - len(run.records):
        run.damaged.append(f"log.jsonl: {broken} of {len(lines)} lines cannot be read.")
    if not lines:
        run.missing.append("log.jsonl is empty: there are no curves.")


def read_effort(folder: Path, run: RunRecord) -> None:
    """How long it trained, and on what."""
    if own_file(folder, EFFORT, run.damaged) is None:
        return
    try:
        run.effort = effort_of(folder)
    except DimoError as problem:
        run.damaged.append(problem.message)


def read_notes(folder: Path, run: RunRecord) -> None:
    """What the run said on its way."""
    path = own_file(folder, NOTES, run.damaged)
    if path is not None:
        run.notes = lines_from(path, run)


def read_samples(folder: Path, run: RunRecord) -> None:
    """The sample grids by step."""
    found = sorted((folder / "samples").glob("step-*.png"))
    for path in own_files(folder, found, run.damaged):
        digits = path.stem.removeprefix("step-")
        if digits.isdecimal():
            run.samples.append((int(digits), path))
    run.samples.sort()
    if not run.samples:
        run.missing.append("There are no sample grids.")


def read_comparison(folder: Path, run: RunRecord) -> None:
    """The closing table, and pictures of the teacher beside the student."""
    summary = read_json(folder, "summary.json", run)
    if summary is None:
        return
    rows = as_list(summary.get("table"))
    run.rows = [row for row in rows if is_score(row)]
    best = summary.get("best_checkpoint")
    if isinstance(best, dict) and is_score(best) and type(best.get("step")) is int:
        run.best = best
    if len(run.rows) < len(rows):
        run.damaged.append("summary.json: rows of the closing table cannot be read.")
    if not run.rows:
        run.missing.append("There is no closing table: the teacher was not measured beside it.")
    for row in run.rows:
        steps, network = row["sampler"].get("steps"), str(row["sampler"].get("network", ""))
        is_student = row is run.rows[-1] or network.startswith("student:")
        who = "student" if is_student else "teacher"
        path = own_file(folder, f"comparison/{who}-{steps}.png", run.damaged)
        if path is not None:
            title = f"{who}, {steps} step{'s' * (steps != 1)}"
            picture = embed(path, title, f"Images of the {title}")
            if picture:
                run.comparison.append(picture)


def read_student(folder: Path, run: RunRecord) -> None:
    """The student's manifest, and every evaluation of exactly these weights."""
    run.manifest = read_json(folder, "student/dimo.json", run)
    if run.manifest is not None:
        files = own_files(folder, sorted(folder.glob("*.json")), run.damaged)
        run.evaluations = evaluations_of(str(run.manifest.get("weights_sha256")), files)
    elif not (folder / "student" / "dimo.json").is_file():
        run.missing.append("There is no student yet: the run is unfinished.")


def is_score(row: Any) -> bool:
    """Whether this is a row of a closing table."""
    if not (isinstance(row, dict) and isinstance(row.get("sampler"), dict)):
        return False
    numbers = [row.get(key) for key in ("value", "seconds_per_image", "images")]
    return (
        isinstance(row.get("metric"), str)
        and all(map(is_number, numbers))
        and min(row["seconds_per_image"], row["images"]) > 0
    )


def is_evaluation(document: Any) -> bool:
    """Whether this is what `dimo eval --json` writes."""
    if not (isinstance(document, dict) and isinstance(document.get("subject"), dict)):
        return False
    results, notes = document.get("results"), document.get("notes", [])
    return isinstance(results, list) and isinstance(notes, list) and all(map(is_result, results))


def is_result(result: Any) -> bool:
    """Whether this is a number of an evaluation, with its protocol."""
    return (
        isinstance(result, dict)
        and isinstance(result.get("metric"), str)
        and is_number(result.get("value"))
        and isinstance(result.get("protocol"), dict)
        and isinstance(result.get("details") or {}, dict)
    )


def evaluations_of(weights_sha256: str, own: list[Path]) -> list[dict[str, Any]]:
    """What `dimo eval` measured of a student: results in the run folder, and in its cache here."""
    files = [*own, *sorted((dimo_cache() / "eval").glob("*.json"))]
    found: dict[str, dict[str, Any]] = {}
    for path in files:
        document = parsed_file(path)
        if not is_evaluation(document):
            continue
        if document["subject"].get("student_sha256") == weights_sha256:
            key = json.dumps([document["subject"], document["results"]], sort_keys=True)
            found.setdefault(key, document)
    return list(found.values())


def read_json(folder: Path, name: str, run: RunRecord) -> dict[str, Any] | None:
    """A JSON object; None where there is none."""
    path = own_file(folder, name, run.damaged)
    if path is None:
        return None
    document = parsed_file(path)
    if not isinstance(document, dict):
        run.damaged.append(f"{path.name} cannot be read.")
        return None
    return document


def lines_from(path: Path, run: RunRecord) -> list[str]:
    """The lines of a log; of one that no run could have written, the last ones, and it is said."""
    text, is_whole = read_tail(path, MOST_LOG)
    if not is_whole:
        run.damaged.append(
            f"{path.name} is very long: only its last {MOST_LOG >> 20} MiB are read."
        )
    return text.splitlines()


def parsed_file(path: Path) -> Any:
    """JSON of a file, or None; a file that is no result for its size alone is none."""
    try:
        return parsed(read_text(path, MOST_DOCUMENT, "replace"))
    except SpecError:
        return None


def parsed(text: str) -> Any:
    """JSON, or None."""
    try:
        return parse_json(text)
    except ValueError:
        return None
