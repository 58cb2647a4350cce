"""What a run folder tells beside its spec: who set which value, and what was said on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from dimo_cli.errors import SpecError
from dimo_cli.files.reading import MOST_DOCUMENT, read_text
from dimo_cli.files.untrusted import parse_json
from dimo_cli.files.writing import write_whole_text

ORIGINS, NOTES = "origins.json", "notes.txt"


def read_origins(folder: Path) -> dict[str, str] | None:
    """Dotted path to origin, such as `flag --set train.steps`; what is not there is the default.

    None for a run that was started without origins, as Python code may do.
    """
    try:
        found = parse_json(read_text(folder / ORIGINS, MOST_DOCUMENT))
        return {str(path): str(origin) for path, origin in found.items()}
    except (OSError, ValueError, AttributeError, SpecError):
        return None


def keep_origins(folder: Path, origins: Mapping[str, str]) -> None:
    """Write down who set what; a continued run keeps what it knew and adds what is new."""
    itself = f"{folder / 'run.yaml'}, line"  # a continued run reads its own spec again
    new = {path: origin for path, origin in origins.items() if not origin.startswith(itself)}
    text = json.dumps({**(read_origins(folder) or {}), **new}, indent=2)
    write_whole_text(folder / ORIGINS, text + "\n")
