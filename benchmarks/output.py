"""How every benchmark ends: one JSON document, printed and kept, or a small table of its ratios."""

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


def table(document: Mapping[str, Any]) -> str:
    """The ratios of a document, each with its bar where it has one."""
    ratios, bars = document["ratios"], document["bars"]
    width = max(len(name) for name in ratios)
    lines = [f"{'ratio':{width}}  measured  bar"]
    for name, value in ratios.items():
        bar = f"{bars[name]:.2f}" if name in bars else "-"
        lines.append(f"{name:{width}}  {value:8.3f}  {bar}")
    return "\n".join(lines)
