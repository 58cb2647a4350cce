"""The page of an arena: its tables, curves over the steps, and pictures side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimo_cli.reporting.charts import Chart, Point, Series
from dimo_cli.reporting.document import document, save_page
from dimo_cli.reporting.pictures import embed
from dimo_cli.reporting.views import plot_of
from dimo_cli.specs.metrics import falls, title_of

STYLES, SCRIPTS = ("templates/report.css",), ("templates/report.js",)
MOST_CURVES = 4  # as many as colors and dashes tell apart


@dataclass(frozen=True)
class ArenaTable:
    """Rows under a heading."""

    key: str
    title: str
    about: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class ArenaPage:
    """All that the page shows."""

    name: str
    lead: str
    tables: Sequence[ArenaTable]
    curves: Mapping[str, Mapping[str, Sequence[Point]]]
    """By metric and method: its mean over the steps; the first method stands in every chart."""
    pictures: Sequence[tuple[str, Path]]
    commands: Sequence[str]


def write_arena_page(page: ArenaPage, target: Path) -> None:
    """Write the page as one HTML file."""
    save_page(document("arena.html", view_of(page), STYLES, SCRIPTS), target, "--out")


def view_of(page: ArenaPage) -> dict[str, Any]:
    """Everything that the template shows."""
    plots = [plot_of(chart, f"curve-{index}") for index, chart in enumerate(charts_of(page))]
    pictures = [embed(path, title, f"Images of {title}") for title, path in page.pictures]
    shown = [picture for picture in pictures if picture is not None]
    sections = [(table.key, table.title) for table in page.tables]
    sections += [("curves", "Curves")] if plots else []
    sections += [("samples", "Images")] if shown else []
    return {
        "title": f"{page.name}: arena of dimo",
        "heading": f"Arena of {page.name}",
        "lead": page.lead,
        "sections": [*sections, ("commands", "Commands"), ("words", "The words")],
        "cards": [],
        "tables": page.tables,
        "plots": plots,
        "pictures": shown,
        "commands": page.commands,
    }


def charts_of(page: ArenaPage) -> list[Chart]:
    """A chart for each metric and every few methods, each beside the first."""
    charts = []
    for metric, by_method in page.curves.items():
        series = [Series(name, points) for name, points in by_method.items() if points]
        first, others = series[:1], series[1:]
        way = "less is better" if falls(metric) else "more is better"
        for start in range(0, max(1, len(others)), MOST_CURVES - 1):
            part = [*first, *others[start : start + MOST_CURVES - 1]]
            if part:
                about = f"{way}; means over seeds"
                charts.append(Chart(title_of(metric), part, about, x_name="steps"))
    return charts
