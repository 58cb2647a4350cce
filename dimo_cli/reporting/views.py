"""What the pages of all kinds of runs share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from dimo_cli.reporting import charts
from dimo_cli.reporting.charts import Chart


@dataclass(frozen=True)
class Card:
    """A number to see first."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Plot:
    """A chart as picture, as data for the pointer, and as table."""

    key: str
    chart: Chart
    svg: Markup
    data: str
    head: list[str]
    rows: list[list[str]]


def plot_of(chart: Chart, key: str) -> Plot:
    """A chart made ready for the page."""
    x_axis, _ = charts.axes(chart)
    data = {
        "x": chart.x_name,
        "low": x_axis.low,
        "high": x_axis.high,
        "left": charts.LEFT,
        "right": charts.WIDTH - charts.RIGHT,
        "top": charts.TOP,
        "bottom": charts.HEIGHT - charts.BOTTOM,
        "width": charts.WIDTH,
        "series": [
            {"name": one.name, "points": [[x, charts.told(y)] for x, y in charts.thin(one.points)]}
            for one in chart.series
        ],
    }
    head, rows = charts.table(chart)
    packed = json.dumps(data, separators=(",", ":"))
    return Plot(key, chart, charts.draw(chart, key), packed, head, rows)


def flat_rows(facts: Any, prefix: str = "") -> list[list[str]]:
    """Nested facts as rows of name and value."""
    if not isinstance(facts, dict):
        return [[prefix.rstrip(".") or "value", str(facts)]]
    return [row for key, value in facts.items() for row in flat_rows(value, f"{prefix}{key}.")]
