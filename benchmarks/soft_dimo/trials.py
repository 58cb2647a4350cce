"""Trials whose results are kept by what they depend on, so that they can be done in parts."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dimo_cli.files.writing import file_sha256, write_whole_text
from dimo_cli.teachers.builtin import builtin_path

RESULTS = Path(__file__).parent.parent / "results" / "soft_dimo"


@dataclass(frozen=True)
class Trial:
    """One training or sampling, and what it says."""

    part: str
    name: str
    settings: Mapping[str, Any]
    """All that the result follows from, beside the weights that ship."""
    run: Callable[[Path], dict[str, Any]] = field(repr=False)
    """The numbers; the folder is for what is worth keeping if it is stopped on the way."""
    weights: Sequence[str] = ()
    """Files of the package that it reads."""

    @property
    def path(self) -> Path:
        """Where its result is kept."""
        return RESULTS / self.part / f"{self.name}.json"

    @property
    def digest(self) -> str:
        """What tells this trial from one with other settings or other weights."""
        hashes = {name: file_sha256(Path(builtin_path(name))) for name in self.weights}
        text = json.dumps([self.settings, hashes], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def result(self) -> dict[str, Any] | None:
        """The numbers, if they are there and of these very settings."""
        if not self.path.is_file():
            return None
        kept: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return kept["result"] if kept["digest"] == self.digest else None

    def carry_out(self, work: Path) -> dict[str, Any]:
        """The numbers, new or kept."""
        found = self.result()
        if found is not None:
            return found
        folder = work / self.part / f"{self.name}-{self.digest}"
        folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        found = self.run(folder)
        document = {
            "command": f"python -m benchmarks.soft_dimo --only {self.part}/{self.name}",
            "settings": dict(self.settings),
            "digest": self.digest,
            "seconds": round(time.monotonic() - started, 1),
            "result": found,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole_text(self.path, json.dumps(document, indent=1) + "\n")
        return found


def packed(verdicts: Sequence[bool]) -> str:
    """Verdicts as a text of 0 and 1, one for each prompt."""
    return "".join("01"[bool(verdict)] for verdict in verdicts)


def unpacked(text: str) -> list[int]:
    """Verdicts as numbers."""
    return [int(letter) for letter in text]
