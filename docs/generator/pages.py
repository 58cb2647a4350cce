"""All generated files: what they should be, and writing them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from dimo_cli.main import app
from dimo_cli.specs.glossary import GLOSSARY
from dimo_cli.specs.resolve import preset_names, preset_summary, refine_preset_names
from docs.generator.adapters import lora_page
from docs.generator.command_pages import command_names, command_pages
from docs.generator.healthy import healthy_files
from docs.generator.markdown import fill, table
from docs.generator.presets import preset_pages
from docs.generator.python_page import python_page

DOCS = Path(__file__).parent.parent


def pages() -> dict[str, str]:
    """The text of every generated file by its path below docs/."""
    return {
        "README.md": fill("README.md", commands=commands_table(), presets=presets_tables()),
        "python.md": python_page(),
        **dict(command_pages()),
        **dict(preset_pages()),
        "glossary.md": fill("glossary.md", words=glossary_table()),
        "lora.md": lora_page(),
        **healthy_files(),
    }


def glossary_table() -> str:
    """Every word of dimo with its meaning."""
    return table(("word", "meaning"), list(GLOSSARY.items()))


def commands_table() -> str:
    """Every command with its page."""
    known: dict[str, Any] = getattr(typer.main.get_command(app), "commands", {})
    rows = [[f"[`dimo {name}`](commands/{name}.md)", known[name].help] for name in command_names()]
    return table(("command", "what it does"), rows)


def presets_tables() -> dict[str, str]:
    """Every preset with its page, by the command that takes it."""
    kinds = {"distill": preset_names(), "refine": refine_preset_names()}
    return {
        kind: table(
            ("preset", "what it is"),
            [[f"[`{name}`](presets/{name}.md)", preset_summary(name)] for name in names],
        )
        for kind, names in kinds.items()
    }


def strangers(wanted: dict[str, str]) -> list[Path]:
    """Pages of commands and presets that there are no more."""
    found = [path for folder in ("commands", "presets") for path in (DOCS / folder).glob("*.md")]
    return sorted(path for path in found if str(path.relative_to(DOCS)) not in wanted)


def write_pages() -> list[str]:
    """Bring every file up to date; returns those that were not."""
    wanted, changed = pages(), []
    for path in strangers(wanted):
        path.unlink()
        changed.append(f"{path.relative_to(DOCS)} (removed)")
    for name, text in wanted.items():
        path = DOCS / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            changed.append(name)
    return changed
