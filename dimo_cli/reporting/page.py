"""From run folders to one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dimo_cli.reporting.compared_view import compared_view
from dimo_cli.reporting.document import document, save_page
from dimo_cli.reporting.optimized import is_tteo
from dimo_cli.reporting.run_view import run_view
from dimo_cli.reporting.tteo_view import tteo_view

STYLES, SCRIPTS = ("templates/report.css",), ("templates/report.js",)


def write_report(folder: Path, target: Path) -> Path:
    """Write the report of a run folder as one HTML file."""
    save_page(render(folder), target, "--out")
    return target


def write_comparison(folders: Sequence[Path], target: Path) -> Path:
    """Write the report of several run folders as one HTML file."""
    save_page(document("compared.html", compared_view(folders), STYLES, SCRIPTS), target, "--out")
    return target


def render(folder: Path) -> str:
    """The page, in which nothing of the folder can become markup."""
    if is_tteo(folder):
        return document("tteo.html", tteo_view(folder), STYLES, SCRIPTS)
    return document("run.html", run_view(folder), STYLES, SCRIPTS)
