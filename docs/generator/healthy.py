"""The page of healthy curves: pictures and numbers out of the logs of real runs.

`examples/healthy_runs.py` makes the runs and keeps their logs in docs/generator/logs.
"""

from __future__ import annotations

import json
from typing import Any

from markupsafe import Markup, escape

from dimo_cli.reporting.charts import HEIGHT, LEFT, WIDTH, Chart, Point, Series, draw, number
from dimo_cli.reporting.curves import points_of
from docs.generator.markdown import HERE, code, fill, table

LOGS = HERE / "logs"
CURVES = {
    "fid": "FID of the student",
    "divergence": "Divergence of teacher and auxiliary",
    "auxiliary_gap": "Auxiliary loss - student entropy",
    "entropy": "Student entropy, nats per token",
}
LEGEND_ROW = 18
STYLE = """
.paper{fill:#fff}.line{stroke:#d9d9d3}.curve{fill:none;stroke-width:1.8}.dot{stroke:none}
text{font:11px system-ui,sans-serif;fill:#55585f}.x{text-anchor:middle}.y{text-anchor:end}
.key{font-size:12px;fill:#1b1c1f}
.c0{stroke:#1f5fbf}.c1{stroke:#b0420b}.c2{stroke:#17713f}.c3{stroke:#85299f}
.dot.c0{fill:#1f5fbf}.dot.c1{fill:#b0420b}.dot.c2{fill:#17713f}.dot.c3{fill:#85299f}
@media(prefers-color-scheme:dark){.paper{fill:#131417}.line{stroke:#34373e}
text{fill:#a9adb6}.key{fill:#ececea}
.c0{stroke:#7cb4ff}.c1{stroke:#ff9f5a}.c2{stroke:#5fd39a}.c3{stroke:#d9a3f2}
.dot.c0{fill:#7cb4ff}.dot.c1{fill:#ff9f5a}.dot.c2{fill:#5fd39a}.dot.c3{fill:#d9a3f2}}
"""


def healthy_files() -> dict[str, str]:
    """The page and its curves by path below docs/."""
    runs = read_logs()
    drawn = [run for run in runs if run["drawn"]]
    pictures = {f"pictures/{key}.svg": picture(key, title, drawn) for key, title in CURVES.items()}
    return {"healthy-curves.md": fill("healthy-curves.md", numbers=ends(runs)), **pictures}


def read_logs() -> list[dict[str, Any]]:
    """Every run with its name, what was changed, and its log."""
    found: list[dict[str, Any]] = json.loads((LOGS / "runs.json").read_text(encoding="utf-8"))
    for run in found:
        lines = (LOGS / f"{run['name']}.jsonl").read_text(encoding="utf-8").splitlines()
        run["log"] = [json.loads(line) for line in lines]
    return found


def picture(key: str, title: str, runs: list[dict[str, Any]]) -> str:
    """A number of all runs as a picture that needs no page around it."""
    chart = Chart(title, [Series(run["label"], rounded(run["log"], key)) for run in runs])
    return standing_alone(chart, key)


def standing_alone(chart: Chart, key: str) -> str:
    """A chart of at most four curves with its colors and its legend."""
    labels = [series.name for series in chart.series]
    body = draw(chart, key).split(">", 1)[1].removesuffix("</svg>")
    height = HEIGHT + LEGEND_ROW * len(labels) + 8
    head = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" '
        'role="img" aria-labelledby="{key}-title {key}-desc"><style>{style}</style>'
        '<rect class="paper" width="{w}" height="{h}"/>'
    ).format(w=WIDTH, h=height, key=key, style=Markup(STYLE))
    return f"{head}{body}{legend(labels)}</svg>\n"


def rounded(log: list[dict[str, Any]], key: str) -> list[Point]:
    """A number by step; what is nearly 0 is 0, lest a scale go down to where nothing is seen."""
    return [
        (step, None if value is None else round(value, 4)) for step, value in points_of(log, key)
    ]


def legend(labels: list[str]) -> str:
    """Which color is which run, below the chart."""
    parts = []
    for index, label in enumerate(labels):
        y = HEIGHT + 12 + LEGEND_ROW * index
        parts.append(f'<path class="curve c{index}" d="M{LEFT} {y}h22"/>')
        parts.append(f'<text class="key" x="{LEFT + 30}" y="{y + 4}">{escape(label)}</text>')
    return "".join(parts)


def ends(runs: list[dict[str, Any]]) -> str:
    """Where each run ended."""
    rows = []
    for run in runs:
        last = run["log"][-1]
        values = [f"{round(last[key], 3):.3g}" for key in (*CURVES, "top1")]
        rows.append([run["label"], code(run["changed"]), number(last["step"]), *values])
    head = ("run", "changed", "steps", "FID500", "divergence", "gap", "entropy", "top-1")
    return table(head, rows)
