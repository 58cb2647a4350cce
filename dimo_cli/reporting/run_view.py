"""The page of a distillation or a refinement: its parts, ready for the template."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from dimo_cli.console import next_steps
from dimo_cli.reporting.charts import Level, number, spread
from dimo_cli.reporting.collect import RunRecord, Setting, collect
from dimo_cli.reporting.curves import KL_CHART, charts_of, metric_chart
from dimo_cli.reporting.diagnosis import diagnose
from dimo_cli.reporting.further import further_steps
from dimo_cli.reporting.pictures import Picture, embed
from dimo_cli.reporting.views import Card, flat_rows, plot_of
from dimo_cli.run_folder.effort import Effort
from dimo_cli.run_folder.log import is_number
from dimo_cli.run_folder.nats import teacher_kl
from dimo_cli.specs.manifest import steps_in_words
from dimo_cli.specs.metrics import WHOLE_SETS, falls, title_of

MOST_SLIDES = 40
SPREADS = ("std", "standard_error")
SECTIONS = (
    ("health", "Health"),
    ("samples", "Samples"),
    ("teacher", "Teacher beside student"),
    ("curves", "Curves"),
    ("metrics", "Metrics"),
    ("next", "What next"),
    ("spec", "What was run"),
    ("words", "The words"),
)


def run_view(folder: Path) -> dict[str, Any]:
    """Everything that the template of a run shows."""
    run = collect(folder)
    slides = slides_of(run)  # before the diagnosis: a picture may turn out to be damaged
    shown = next((picture for picture in slides if picture.conditions), None)
    plots = [
        plot_of(chart, f"curve-{index}")
        for index, chart in enumerate(charts_of(run.records, levels_of(run), abouts_of(run)))
    ]
    return {
        "title": f"{run.name}: report of a run of dimo",
        "heading": run.name,
        "lead": lead_of(run),
        "sections": SECTIONS,
        "cards": cards_of(run),
        "findings": diagnose(run),
        "slides": slides,
        "slides_left_out": max(0, len(run.samples) - MOST_SLIDES),
        "closing": closing_table(run.rows, run.best),
        "comparison": run.comparison,
        "plots": plots,
        "metrics": [*closing_metrics(run.rows), *map(metric_view, run.evaluations)],
        "next": further_steps(run, shown.conditions if shown else ()),
        "settings": run.settings,
        "changed": changed_settings(run),
        "run_yaml": run.run_yaml,
        "again": again(run),
        "student": flat_rows(run.manifest) if run.manifest else [],
    }


def lead_of(run: RunRecord) -> str:
    """The run in a sentence."""
    if run.spec is None:
        return "A run of dimo whose spec cannot be read."
    teacher = run.spec.teacher.name
    state = "finished" if run.is_finished else "unfinished"
    start = getattr(run.spec, "start", None)
    one = run.spec.student.in_one_step
    kind = "one-step student" if one else f"student of {steps_in_words(run.spec.student.steps)}"
    what = f"{run.spec.method} from the masked diffusion teacher {teacher} to a {kind}"
    if run.is_refinement:
        what = f"{run.spec.method} on the student {start} of the teacher {teacher}"
    at = f"{state.capitalize()} at step {run.last_step:,} of {run.spec.train.steps:,}"
    return f"{what}. {at}{when_and_where(run.effort)}."


def when_and_where(effort: Effort | None) -> str:
    """The day and the machine, as far as they were written down."""
    if effort is None:
        return ""
    day = f" on {effort.ended}" if effort.ended else ""
    return day + (f", on {effort.hardware}" if effort.hardware else "")


def again(run: RunRecord) -> str:
    """The command that repeats a run from its run.yaml."""
    start = getattr(run.spec, "start", None)
    words = ["refine", start] if start else ["distill"]
    return next_steps.command(*words, "--spec", "run.yaml").strip("`")


def cards_of(run: RunRecord) -> list[Card]:
    """The numbers to see first."""
    cards = []
    if len(run.rows) > 1:
        student, best = run.rows[-1], best_row(teacher_rows(run.rows))
        at = f"{best['sampler'].get('steps')} steps"
        speed = best["seconds_per_image"] / student["seconds_per_image"]
        cards += [
            Card(
                f"{student['metric'].upper()}, {steps_of(student)}",
                f"{student['value']:.3f}",
                f"teacher's best: {best['value']:.3f} at {at}",
            ),
            Card("Speed-up", f"{speed:.1f}×", f"over the teacher at {at}"),
        ]
    if run.spec is not None:
        batch = run.spec.train.batch_size * run.spec.train.accumulate
        cards.append(Card("Steps", f"{run.last_step:,}", f"{run.last_step * batch:,} samples"))
    if run.effort is not None:
        least = "" if run.effort.is_complete else "at least; "
        cards.append(
            Card(
                "Training",
                duration(run.effort.hours),
                least + (run.effort.hardware or "unknown hardware"),
            )
        )
    speeds = numbers(run, "images_per_second")
    if speeds:
        cards.append(Card("Throughput", f"{median(speeds):,.0f}/s", "samples, median of the log"))
    memory = numbers(run, "peak_memory_gib")
    if memory:
        cards.append(Card("Peak memory", f"{max(memory):.2f} GiB", "while training"))
    return cards


def changed_settings(run: RunRecord) -> list[Setting]:
    """What was chosen for this run, default or not; then what else is not the default."""
    chosen = ("flag", "environment", "file")
    first = [item for item in run.settings if item.kind in chosen]
    others = [item for item in run.settings if item.kind not in chosen and not item.is_default]
    return [*first, *others]


def numbers(run: RunRecord, key: str) -> list[float]:
    """The finite values of a key of the log."""
    values = (record.get(key) for record in run.records)
    return [value for value in values if isinstance(value, (int, float))]


def duration(hours: float) -> str:
    """Hours, minutes or seconds."""
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.0f} s"


def slides_of(run: RunRecord) -> list[Picture]:
    """The sample grids, evenly thinned if there are very many."""
    found = []
    for step, path in spread(run.samples, MOST_SLIDES):
        picture = embed(path, f"step {step:,}", f"Grid of samples at step {step:,}")
        if picture is None:
            run.damaged.append(f"samples/{path.name} cannot be read.")
        else:
            found.append(picture)
    return found


def levels_of(run: RunRecord) -> dict[str, list[Level]]:
    """The teacher's best as a line, where it is of as many images as the curve."""
    if run.spec is None or len(run.rows) < 2:
        return {}
    monitor = run.spec.monitor
    if run.rows[0]["images"] != monitor.fid_samples and monitor.metric not in WHOLE_SETS:
        return {}
    best = best_row(teacher_rows(run.rows))
    name = f"teacher, {best['sampler'].get('steps')} steps"
    return {metric_chart(monitor.metric): [Level(name, best["value"])]}


def abouts_of(run: RunRecord) -> dict[str, str]:
    """What a number's sample count is: without it, it says nothing."""
    found = teacher_kl(run.records)
    return samples_of(run) | ({KL_CHART: found.words} if found else {})


def samples_of(run: RunRecord) -> dict[str, str]:
    """How many images the run's metric is of."""
    if run.spec is None:
        return {}
    monitor = run.spec.monitor
    told = f"{monitor.fid_samples:,} images each"
    return {
        metric_chart(monitor.metric): "all its prompts" if monitor.metric in WHOLE_SETS else told
    }


def best_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of the best value."""
    pick = min if falls(rows[0]["metric"]) else max
    return pick(rows, key=lambda row: float(row["value"]))


def student_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The student's rows of a closing table, its last ones: one for each number of steps."""
    network = rows[-1]["sampler"].get("network")
    return [row for row in rows if row is rows[-1] or network == row["sampler"].get("network", "")]


def teacher_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The others, or all but the last where they do not say whose they are."""
    students = student_rows(rows)
    return without(rows, students) or rows[:-1]


def without(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that are not among others; two rows may say the same and are still two."""
    return [row for row in rows if all(row is not other for other in others)]


def steps_of(row: dict[str, Any]) -> str:
    """In how many steps the images of a row were drawn."""
    steps = row["sampler"].get("steps")
    return f"{steps} step{'s' * (steps != 1)}"


def closing_table(
    rows: list[dict[str, Any]], at_best: dict[str, Any] | None = None
) -> dict[str, Any] | None:
    """The teacher at several step counts, and the student, which has the last rows.

    Above these stands what the student was at the best checkpoint, where that is not the last one.
    """
    if len(rows) < 2:
        return None
    teachers = teacher_rows(rows)
    students, best = without(rows, teachers), best_row(teachers)
    student = students[-1]
    has_accuracy = any(isinstance(row.get("accuracy"), float) for row in rows)
    cells = []
    for row in [*teachers, *([at_best] if at_best else []), *students]:
        accuracy = row.get("accuracy")
        cells.append(
            [
                sampler_name(row, students, at_best) + (" (best)" if row is best else ""),
                f"{row['value']:.3f}",
                *([f"{accuracy:.1%}" if isinstance(accuracy, float) else ""] * has_accuracy),
                f"{1000 * row['seconds_per_image']:.2f}",
                f"{best['seconds_per_image'] / row['seconds_per_image']:.1f}×",
            ]
        )
    speed = best["seconds_per_image"] / student["seconds_per_image"]
    return {
        "caption": f"{student['images']:,} images each, {held_against(student)}",
        "head": [
            "sampler",
            student["metric"].upper(),
            *(["accuracy"] * has_accuracy),
            "ms per image",
            "speed-up",
        ],
        "rows": cells,
        "sentence": f"The student in {in_words(student)} has {beside(student, best)}, at "
        f"{speed:.1f} times its speed.",
    }


def sampler_name(
    row: dict[str, Any], students: list[dict[str, Any]], at_best: dict[str, Any] | None
) -> str:
    """Who drew the images of a row of the closing table."""
    if row is at_best:
        return f"student at step {row['step']:,}, the best on the way"
    return f"{'teacher' if without([row], students) else 'student'}, {steps_of(row)}"


def in_words(row: dict[str, Any]) -> str:
    """The steps of a row, as a sentence has them."""
    return "one step" if row["sampler"].get("steps") == 1 else steps_of(row)


def held_against(row: dict[str, Any]) -> str:
    """Which real images or prompts a number is of."""
    if "reference" in row:
        return f"against {row['reference']}"
    return f"of the prompts of {row.get('prompt_set', '?')}"


def beside(student: dict[str, Any], best: dict[str, Any]) -> str:
    """The student's number next to its teacher's best, as a factor where there can be one."""
    title, value, other = title_of(student["metric"]), student["value"], best["value"]
    if value < 0 or other <= 0:
        return f"{title} {value:.3f} beside {other:.3f} of its teacher's best"
    return f"{value / other:.2f} times the {title} of its teacher's best"


def closing_metrics(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The protocol of the closing table's last row, the student's."""
    if not rows:
        return []
    student = rows[-1]
    facts = {key: value for key, value in student.items() if key not in ("value", "metric")}
    return [
        {
            "title": "Closing table, student",
            "rows": [[student["metric"], f"{student['value']:.4f}", ""]],
            "facts": flat_rows(facts),
            "notes": [],
        }
    ]


def metric_view(document: dict[str, Any]) -> dict[str, Any]:
    """What one call of `dimo eval` measured."""
    rows, facts = [], flat_rows(document["subject"])
    for result in document["results"]:
        spreads = (result.get("details") or {}).items()
        known = [value for key, value in spreads if key in SPREADS and is_number(value)]
        told = f"± {known[0]:.4f}" if known else ""
        rows.append([result["metric"], f"{result['value']:.4f}", told])
        facts += [
            [f"{result['metric']}: {key}", value] for key, value in flat_rows(result["protocol"])
        ]
    names = ", ".join(row[0] for row in rows)
    seed = document["subject"].get("seed")
    return {
        "title": f"dimo eval: {names}, seed {number(seed) if is_number(seed) else seed}",
        "rows": rows,
        "facts": facts,
        "notes": [str(note) for note in document.get("notes", [])],
    }
