"""The page of several runs: their curves over one another, and what differs between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from dimo_cli.errors import SpecError
from dimo_cli.reporting.charts import Chart, Series, number
from dimo_cli.reporting.collect import RunRecord, collect
from dimo_cli.reporting.curves import COUNTERS, TOPICS, own_topics, points_of
from dimo_cli.reporting.diagnosis import Finding, diagnose
from dimo_cli.reporting.optimized import is_tteo
from dimo_cli.reporting.pictures import Picture, embed
from dimo_cli.reporting.run_view import best_row, duration, held_against, numbers, steps_of
from dimo_cli.reporting.views import plot_of
from dimo_cli.specs.metrics import TITLES, WHOLE_SETS, is_better, title_of

MOST_RUNS = 4  # as many as colors and dashes tell apart
SECTIONS = (
    ("health", "Health"),
    ("numbers", "Side by side"),
    ("differences", "What differs"),
    ("curves", "Curves"),
    ("samples", "Samples"),
    ("words", "The words"),
)
ABSENT = "–"


def compared_view(folders: Sequence[Path]) -> dict[str, Any]:
    """Everything that the template of several runs shows."""
    check_comparable(folders)
    runs = [collect(folder) for folder in folders]
    names = names_of(runs)
    pictures = [last_picture(run, name) for run, name in zip(runs, names, strict=True)]
    return {
        "title": f"{', '.join(names)}: report of runs of dimo",
        "heading": f"{len(runs)} runs",
        "lead": f"{', '.join(names)}, side by side.",
        "sections": SECTIONS,
        "cards": [],
        "names": names,
        "findings": findings_of(runs, names),
        "numbers": numbers_table(runs),
        "differences": differences_table(runs),
        "plots": [
            plot_of(chart, f"curve-{index}") for index, chart in enumerate(overlaid(runs, names))
        ],
        "pictures": [picture for picture in pictures if picture is not None],
    }


def check_comparable(folders: Sequence[Path]) -> None:
    """Refuse what cannot be laid over one another."""
    if len(folders) > MOST_RUNS:
        raise SpecError(
            f"{len(folders)} runs are named, and a page tells at most {MOST_RUNS} curves apart.",
            f"Name up to {MOST_RUNS}; `dimo runs list` shows all of them in a table.",
        )
    places = [folder.expanduser().resolve() for folder in folders]
    if twice := next((folder for folder in places if places.count(folder) > 1), None):
        raise SpecError(f"`{twice}` is named twice.", "Name each run once.")
    if tteo := next((folder for folder in folders if is_tteo(folder)), None):
        raise SpecError(
            f"`{tteo}` holds optimized prompts, which have no curves in common with a run.",
            "Report it alone.",
        )


def names_of(runs: Sequence[RunRecord]) -> list[str]:
    """What each run is called: its folder's name, or the whole path where two have the same."""
    own = [run.name for run in runs]
    return [run.name if own.count(run.name) == 1 else str(run.folder.expanduser()) for run in runs]


def findings_of(runs: Sequence[RunRecord], names: Sequence[str]) -> list[Finding]:
    """What to know before the runs are compared, each with the name of its run."""
    return [
        Finding(found.state, f"{name}: {found.text}")
        for run, name in zip(runs, names, strict=True)
        for found in diagnose(run)
        if found.state == "warning"
    ]


def numbers_table(runs: Sequence[RunRecord]) -> list[list[str]]:
    """A row for each number that any of the runs has."""
    told = [[title, *(cell(run) for run in runs)] for title, cell in CELLS]
    return [row for row in told if any(value != ABSENT for value in row[1:])]


def state_of(run: RunRecord) -> str:
    """Whether it is finished, and at which step."""
    state = "finished" if run.is_finished else "unfinished"
    return f"{state}, step {run.last_step:,}"


def teacher_of(run: RunRecord) -> str:
    """Whose student it makes, and by which method."""
    return f"{run.spec.teacher.name}, {run.spec.method}" if run.spec else ABSENT


def student_number(run: RunRecord) -> str:
    """The student's number in the closing table, with its protocol."""
    return row_text(run.rows[-1]) if run.rows else ABSENT


def teacher_number(run: RunRecord) -> str:
    """The teacher's best in the closing table."""
    if len(run.rows) < 2:
        return ABSENT
    best = best_row([row for row in run.rows if is_of_teacher(row)] or run.rows[:-1])
    return f"{best['value']:.3f} at {best['sampler'].get('steps')} steps"


def is_of_teacher(row: dict[str, Any]) -> bool:
    """Whether a row of a closing table is the teacher's."""
    return str(row["sampler"].get("network", "")).startswith("teacher")


def row_text(row: dict[str, Any]) -> str:
    """A number of a closing table: without its count of images it says nothing."""
    return (
        f"{title_of(row['metric'])} {row['value']:.3f} at {steps_of(row)}, of {row['images']:,} "
        f"images, {held_against(row)}"
    )


def best_on_the_way(run: RunRecord) -> str:
    """The best number that the run measured while it trained, and where."""
    metric = run.spec.monitor.metric if run.spec else "fid"
    values = [(x, y) for x, y in points_of(run.records, metric) if y is not None]
    if not values:
        return ABSENT
    step, best = values[0]
    for later, value in values:
        if is_better(metric, value, best):
            step, best = later, value
    of = ""
    if run.spec and metric not in WHOLE_SETS:
        of = f" of {run.spec.monitor.fid_samples:,} images"
    return f"{TITLES[metric]} {number(best)}{of} at step {number(step)}"


def training_time(run: RunRecord) -> str:
    """How long it trained, and on what."""
    if run.effort is None:
        return ABSENT
    least = "" if run.effort.is_complete else "at least "
    return f"{least}{duration(run.effort.hours)}, {run.effort.hardware or 'unknown hardware'}"


def samples_of(run: RunRecord) -> str:
    """How many images its student has generated while it trained."""
    if run.spec is None:
        return ABSENT
    return f"{run.last_step * run.spec.train.batch_size * run.spec.train.accumulate:,}"


def last_of(key: str) -> Callable[[RunRecord], str]:
    """The last value of a number of the log."""
    return lambda run: next(
        (number(value) for value in reversed(numbers(run, key)) if value is not None), ABSENT
    )


def throughput(run: RunRecord) -> str:
    """Samples in a second, the median of the log."""
    speeds = numbers(run, "images_per_second")
    return f"{median(speeds):,.0f}/s" if speeds else ABSENT


def memory(run: RunRecord) -> str:
    """The most memory while training."""
    found = numbers(run, "peak_memory_gib")
    return f"{max(found):.2f} GiB" if found else ABSENT


CELLS: tuple[tuple[str, Callable[[RunRecord], str]], ...] = (
    ("state", state_of),
    ("teacher and method", teacher_of),
    ("student", student_number),
    ("teacher's best", teacher_number),
    ("best on the way", best_on_the_way),
    ("last divergence", last_of("divergence")),
    ("last student entropy", last_of("entropy")),
    ("training", training_time),
    ("generated samples", samples_of),
    ("throughput", throughput),
    ("peak memory", memory),
)


def differences_table(runs: Sequence[RunRecord]) -> list[list[str]]:
    """Every setting that is not the same in all runs whose spec can be read."""
    values = [{one.path: one.value for one in run.settings} for run in runs]
    paths = dict.fromkeys(path for known in values for path in known)
    rows = [[path, *(known.get(path, ABSENT) for known in values)] for path in paths]
    return [row for row in rows if len(set(row[1:])) > 1]


def overlaid(runs: Sequence[RunRecord], names: Sequence[str]) -> list[Chart]:
    """A chart for each number of the logs, with a curve for each run that has it."""
    keys = list(dict.fromkeys(key for run in runs for line in run.records for key in line))
    charts = []
    for topic in [*TOPICS, *own_topics([key for key in keys if key != "step"])]:
        for key, title in topic.names.items():
            series = [
                Series(name, points_of(run.records, key))
                for run, name in zip(runs, names, strict=True)
            ]
            is_quiet = key in COUNTERS and not any(y for one in series for _, y in one.finite)
            if any(one.finite for one in series) and not is_quiet:
                whole = topic.title if len(topic.names) == 1 else f"{topic.title}: {title}"
                charts.append(Chart(whole, [one for one in series if one.finite], topic.about))
    return charts


def last_picture(run: RunRecord, name: str) -> Picture | None:
    """The newest sample grid of a run."""
    if not run.samples:
        return None
    step, path = run.samples[-1]
    return embed(path, f"{name}, step {step:,}", f"Grid of samples of {name} at step {step:,}")
