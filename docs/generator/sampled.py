"""Tables of what students and teachers draw, over seeds, for the README.

benchmarks/results/digits_sampled.json   `python -m benchmarks.digits_sampled RUN ...`
benchmarks/results/soft_dimo/emoji/      `python -m benchmarks.soft_dimo --only emoji`
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from benchmarks.soft_dimo.__main__ import asked_for
from benchmarks.soft_dimo.emoji import IMAGES
from benchmarks.soft_dimo.evidence import seeds_of
from benchmarks.soft_dimo.report import fid_of, kept, share
from docs.generator.markdown import table
from docs.generator.measured import RESULTS

EMOJI = {
    "teacher-1": "teacher, 1 step",
    "teacher-4": "teacher, 4 steps",
    "teacher-16": "teacher, 16 steps",
    "before": "built-in student, 1 step",
    "gan-none": "300 more steps of Di[M]O alone",
    "gan-soft": "with a GAN beside Di[M]O",
    "reward-soft": "with a reward beside Di[M]O",
    "gan-alone": "a GAN alone",
    "reward-alone": "a reward alone",
}
"""The trials that are shown, and what they are."""


def digits_table() -> str:
    """FID by sampler, each over all sampling seeds."""
    found = json.loads((RESULTS / "digits_sampled.json").read_text(encoding="utf-8"))
    trained = list(found["trained"].values())
    rows = [
        [f"teacher, {counted(steps)}", spread(fids)] for steps, fids in found["teacher"].items()
    ]
    each = ", ".join(f"{mean(fids):.3f}" for fids in trained)
    of_all = mean(mean(fids) for fids in trained)
    rows.append(["student, 1 step, after 1,100 steps", f"{of_all:.3f} (trainings: {each})"])
    rows.append(["built-in student, 1 step, after 3,000 steps", spread(found["built_in"])])
    return table(("sampler", "FID5k"), rows)


def counted(steps: str) -> str:
    """Steps in words."""
    return f"{steps} step{'s' * (steps != '1')}"


def spread(values: Sequence[float], digits: int = 3) -> str:
    """A mean with the lowest and the highest."""
    return f"{mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def emoji_table() -> str:
    """What is as asked, and FID, of student, teacher and refinements."""
    found = kept(asked_for(["emoji"]))["emoji"]
    rows = [row_of(told, list(seeds_of(found, name).values())) for name, told in EMOJI.items()]
    return table(("drawn by", "everything as asked", "FID2.5k", "seeds"), rows)


def row_of(told: str, arms: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line of that table; the FID of teachers is not measured."""
    shares = [100 * share(arm) for arm in arms]
    fids = [fid_of(arm) for arm in arms if f"fid{IMAGES}" in arm]
    told = told.replace("[", r"\[").replace("]", r"\]")
    return [told, f"{spread(shares, 1)} %", spread(fids, 2) if fids else "", str(len(arms))]
