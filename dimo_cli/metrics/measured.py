"""The papers' numbers of a preset's teacher and students beside those that dimo measured.

What was measured is read from `presets/measured.json`, which `python -m docs` writes from the files
that commands wrote to `benchmarks/results`: nothing of it is typed in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from dimo_cli.metrics.expected import PUBLISHED, Expected
from dimo_cli.specs.resolve import presets_folder

FILE = "measured.json"
NOT_RUN, NO_PAPER = "not run", "none"
HEAD = ("sampler", "metric", "images", "paper", "expected", "measured with dimo", "source")


@dataclass(frozen=True, slots=True)
class Known:
    """A number of a teacher or of a student: what a paper says of it, and what dimo measured."""

    sampler: str
    """The steps of the teacher, or the losses that the student was trained with."""
    metric: str
    images: int | None
    paper: Expected | None = None
    value: float | None = None
    """Measured with dimo; None: not run."""
    file: str | None = None
    """What that was read from."""
    about: str = ""
    """Whom it was measured of, where that has to be said."""

    @property
    def of_student(self) -> bool:
        """Whether it is no number of the teacher: those have steps for a sampler."""
        return not self.sampler.isdecimal()

    @property
    def who(self) -> str:
        """The sampler in words."""
        if self.of_student:
            return f"{self.sampler} student, 1 step"
        return f"teacher, {self.sampler} step{'s' * (self.sampler != '1')}"

    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        paper, expected, source = NO_PAPER, "", ""
        if self.paper is not None:
            paper, source = f"{self.paper.value:g}", self.paper.source
            expected = f"{self.paper.value:g} ± {self.paper.tolerance:g}"
        measured = NOT_RUN if self.value is None else f"{self.value:.4g}"
        if self.value is not None and self.about:
            measured += f" ({self.about})"
        files = f"`{self.file}`" if self.file else ""
        images = f"{self.images:,}" if self.images else ""
        sources = "; ".join(filter(None, (source, files)))
        return self.who, self.metric, images, paper, expected, measured, sources

    def document(self) -> dict[str, Any]:
        """For machines."""
        found = asdict(self) | {"paper": None, "tolerance": None, "source": None}
        if self.paper is not None:
            paper = self.paper
            found |= {"paper": paper.value, "tolerance": paper.tolerance, "source": paper.source}
        return found


@cache
def read_measured() -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """What was measured, by teacher."""
    text = (presets_folder() / FILE).read_text(encoding="utf-8")
    found: dict[str, list[dict[str, Any]]] = json.loads(text)
    return found


def known_of(
    teacher: str, measured: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
) -> list[Known]:
    """Every number of a teacher and its students that a paper or a measurement has."""
    rows = (read_measured() if measured is None else measured).get(teacher, ())
    own = {(row["sampler"], row["metric"], row["images"]): Known(**row) for row in rows}
    found = []
    for sampler, papers in PUBLISHED.get(teacher, {}).items():
        for paper in papers:
            key = (sampler, paper.metric, paper.images)
            ours = own.pop(key, Known(*key))
            found.append(Known(*key, paper, ours.value, ours.file, ours.about))
    return [*found, *own.values()]


def known_of_preset(name: str, teacher: str) -> list[Known]:
    """The numbers of a preset: what papers say, its teacher's, and those of its own student.

    What was measured of a teacher's student is of the preset that has the teacher's name.
    """
    found = known_of(teacher)
    return [one for one in found if one.paper or not one.of_student or name == teacher]
