"""What a process tells the launcher that started it, so that each sentence is said once.

The launcher names a folder; a process that ends with an error leaves it there instead of printing.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimo_cli.errors import DimoError

VARIABLE = "DIMO_REPORTS"


@dataclass(frozen=True, slots=True)
class Report:
    """Why a process ended."""

    rank: int
    message: str
    hint: str | None
    exit_code: int
    is_follow_up: bool
    """Whether it ended only because another one did."""


def is_follower() -> bool:
    """Whether dimo started this process, and others before it."""
    return bool(os.environ.get(VARIABLE)) and os.environ.get("RANK", "0") != "0"


def hand_over(error: DimoError) -> bool:
    """Leave an error to the launcher; False where nobody would say it then."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return False
    rank = os.environ.get("RANK", "0")
    report = {
        "rank": int(rank),
        "message": error.message,
        "hint": error.hint,
        "exit_code": error.exit_code,
        "is_follow_up": type(error).__name__ == "LostRanks",
    }
    path = Path(folder) / f"{rank}.json"
    try:
        path.write_text(json.dumps(report), encoding="utf-8")
    except OSError:
        return False
    return True


def read_reports(folder: Path) -> list[Report]:
    """All that was left, in the order of ranks; what is cut short is nobody's word."""
    found = []
    for path in folder.glob("*.json"):
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            found.append(Report(**content))
        except (OSError, ValueError, TypeError):
            continue
    return sorted(found, key=lambda report: report.rank)
