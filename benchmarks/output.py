"""How every benchmark ends: one JSON document, printed and kept."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def emit(document: Mapping[str, Any], file: Path | None) -> None:
    """Print a document, and write it to a file if one is named."""
    text = json.dumps(document, indent=2)
    print(text)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
