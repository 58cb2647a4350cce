"""What `dimo ema` makes of a run's snapshots."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from dimo_cli.errors import SpecError
from dimo_cli.specs.base import Flag, Int, Real, Spec

EXAMPLE = "Write `--length 0.15`, `--length 0.05,0.1,0.2` or `--length 0.02..0.25`."


class AveragesSpec(Spec):
    """One call of `dimo ema`."""

    run: Annotated[str, Flag(is_argument=True, completion="students")] = Field(
        ..., min_length=1, description="Folder of a run with `student.ema.post_hoc.every`"
    )
    lengths: Annotated[
        tuple[Real, ...],
        Flag(names=("--length", "-l"), metavar="A..B or A,B,C", is_text=True),
    ] = Field(
        ...,
        min_length=1,
        description="Lengths as shares of the run (sigma_rel), 0.01 to 0.28: one, several with "
        "commas, or a range",
    )
    points: Int = Field(6, ge=2, le=50, description="Lengths of a range A..B, by equal factors")
    measure: bool = Field(
        False,
        description="Measure the run's metric at every length and for the student as it is; keep "
        "the best length alone",
    )
    images: Annotated[Int | None, Flag(names=("-n", "--images"))] = Field(
        None,
        ge=100,
        le=100_000,
        description="With --measure: images of each; null: as many as the run measured on its way",
    )
    folder: Annotated[Path | None, Flag(names=("--out", "-o"))] = Field(
        None, description="Student folder; null: RUN/student-ema-LENGTH"
    )

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> AveragesSpec:
        if self.images is not None and not self.measure:
            raise ValueError("-n counts the images of --measure: add that, or leave it out")
        if self.folder is not None and len(self.lengths) > 1 and not self.measure:
            raise ValueError(
                f"--out is one folder, and {len(self.lengths)} students would be written: give one "
                "length, or add --measure to keep the best"
            )
        return self


def read_lengths(text: str, points: int) -> tuple[float, ...]:
    """`0.15`, `0.05,0.1`, or `0.02..0.25` in equal factors."""
    low, dots, high = text.partition("..")
    try:
        numbers = [float(part) for part in ((low, high) if dots else text.split(","))]
    except ValueError:
        raise SpecError(f"`--length {text}` is no number.", EXAMPLE) from None
    if not all(math.isfinite(number) and number > 0 for number in numbers):
        raise SpecError(f"`--length {text}`: a length is a number above 0.", EXAMPLE)
    if not dots:
        return tuple(dict.fromkeys(numbers))
    first, last = numbers
    if first >= last:
        raise SpecError(f"`--length {text}`: a range goes from a lower to a higher one.", EXAMPLE)
    shares = [index / (points - 1) for index in range(points)]
    inner = [float(f"{first * (last / first) ** share:.3g}") for share in shares[1:-1]]
    return tuple(dict.fromkeys([first, *inner, last]))
