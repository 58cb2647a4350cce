"""How every benchmark ends: one JSON document, printed and kept, or a small table of its ratios."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def emit(document: Mapping[str, Any], file: Path | None) -> None:
    """Print a document, and write it to a file if one is named."""
    text = json.dumps(document, indent=2)
    print(text)
    write(document, file)


def write(document: Mapping[str, Any], file: Path | None) -> None:
    """Write a document to a file if one is named."""
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document, indent=2) + "\n")


def rows_table(document: Mapping[str, Any]) -> str:
    """What was asked and what there is, a line each; then what failed, and why."""
    rows = document["rows"]
    width = max([len(row["what"]) for row in rows], default=4)
    lines = [f"{'what':{width}}  {'asked':>10}  {'got':>10}  {'before':>10}"]
    for row in rows:
        asked = "-" if row["asked"] is None else f"{row['asked']:.4g}"
        before = "-" if row["before"] is None else f"{row['before']:.4g}"
        missed = "  MISSED" if row["met"] is False else ""
        told = f"{row['what']:{width}}  {asked:>10}  {row['got']:>10.4g}  {before:>10}"
        lines.append(f"{told}  {row['unit']}{missed}".rstrip())
    lines += [f"{name} failed: {why}" for name, why in document["failed"].items()]
    return "\n".join(lines)


def table(document: Mapping[str, Any]) -> str:
    """The ratios of a document, each with its bar where it has one."""
    ratios, bars = document["ratios"], document["bars"]
    width = max(len(name) for name in ratios)
    lines = [f"{'ratio':{width}}  measured  bar"]
    for name, value in ratios.items():
        bar = f"{bars[name]:.2f}" if name in bars else "-"
        lines.append(f"{name:{width}}  {value:8.3f}  {bar}")
    return "\n".join(lines)
