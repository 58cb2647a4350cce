"""From a run folder to one HTML file: the templates, and what makes the page safe to pass on."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dimo_cli import __version__
from dimo_cli.console.plain import visible
from dimo_cli.errors import MissingError
from dimo_cli.files.writing import write_whole_text
from dimo_cli.redacting import without_secrets
from dimo_cli.reporting.compared_view import compared_view
from dimo_cli.reporting.optimized import is_tteo
from dimo_cli.reporting.run_view import run_view
from dimo_cli.reporting.tteo_view import tteo_view

TEMPLATES = "templates"


def write_report(folder: Path, target: Path) -> Path:
    """Write the report of a run folder as one HTML file."""
    return save_page(render(folder), target)


def write_comparison(folders: Sequence[Path], target: Path) -> Path:
    """Write the report of several run folders as one HTML file."""
    return save_page(document("compared.html", compared_view(folders)), target)


def save_page(page: str, target: Path) -> Path:
    """Write a page whole."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole_text(target, page)
    except OSError as error:
        raise MissingError(
            f"Cannot write `{target}`: {error.strerror or error}.", "Choose another `--out`."
        ) from None
    return target


def render(folder: Path) -> str:
    """The page of a run, or of optimized prompts."""
    if is_tteo(folder):
        return document("tteo.html", tteo_view(folder))
    return document("run.html", run_view(folder))


def document(template: str, view: Mapping[str, Any]) -> str:
    """The page. All that comes with the view is escaped; only styles and script are ours.

    Its security policy allows exactly these two, by their hashes, and pictures inside the page:
    even a mistake in escaping could neither run code nor reach the network.
    """
    environment = Environment(
        loader=PackageLoader("dimo_cli.reporting", TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = own_text("report.css"), own_text("report.js")
    ours: dict[str, Any] = {
        "version": __version__,
        "style": Markup(style),
        "script": Markup(script),
        "style_hash": policy_hash(style),
        "script_hash": policy_hash(script),
    }
    return visible(without_secrets(environment.get_template(template).render(**view, **ours)))


def own_text(name: str) -> str:
    """A file that ships beside the templates."""
    return (files("dimo_cli.reporting") / TEMPLATES / name).read_text(encoding="utf-8")


def policy_hash(text: str) -> str:
    """A text as a security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
