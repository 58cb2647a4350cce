"""One HTML file that needs no other: templates, style and script in it, and a policy that holds."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from dimo_cli import __version__
from dimo_cli.console.plain import visible
from dimo_cli.errors import MissingError
from dimo_cli.files.writing import write_whole_text
from dimo_cli.redacting import without_secrets
from dimo_cli.specs.glossary import GLOSSARY

TEMPLATES = "templates"
NO_BREAK_HYPHEN = "\u2011"
STYLES = ("templates/base.css", "shared/lightbox.css")
SCRIPTS = ("shared/lightbox.js",)


def document(
    template: str,
    view: Mapping[str, Any],
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
) -> str:
    """The page. All that comes with the view is escaped; only styles and scripts are ours.

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
    environment.filters |= {"breakable": breakable, "command": command, "unbroken": unbroken}
    style = "".join(map(own_text, [*STYLES, *styles]))
    script = "".join(map(own_text, [*SCRIPTS, *scripts]))
    ours: dict[str, Any] = {
        "version": __version__,
        "words": GLOSSARY,
        "style": Markup(style),
        "script": Markup(script),
        "style_hash": policy_hash(style),
        "script_hash": policy_hash(script),
    }
    return visible(without_secrets(environment.get_template(template).render(**view, **ours)))


def breakable(name: str) -> Markup:
    """The name of a setting, which a narrow page may break behind its dots."""
    return Markup(".<wbr>").join(escape(part) for part in name.split("."))


def command(text: str) -> Markup:
    """A command line that no line break tears a flag of."""
    words = (
        Markup('<span class="flag">{}</span>').format(word)
        if word.startswith("-")
        else escape(word)
        for word in text.split(" ")
    )
    return Markup(" ").join(words)


def unbroken(words: str) -> str:
    """Words with hyphens that no line ends at."""
    return words.replace("-", NO_BREAK_HYPHEN)


def own_text(name: str) -> str:
    """A file that ships with this room."""
    return (files("dimo_cli.reporting") / name).read_text(encoding="utf-8")


def policy_hash(text: str) -> str:
    """A text as a security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def save_page(text: str, target: Path, option: str) -> None:
    """Write a page whole; `option` is what chooses its place."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole_text(target, text)
    except OSError as error:
        raise MissingError(
            f"Cannot write `{target}`: {error.strerror or error}.", f"Choose another `{option}`."
        ) from None
