"""The part of the report that is of `emoji`."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

from benchmarks.soft_dimo.emoji import ARMS, IMAGES, PROMPTS, STEPS, TEACHER_STEPS, WATCHING
from benchmarks.soft_dimo.evidence import Results, seeds_of
from benchmarks.soft_dimo.tables import gain, over_seeds, table
from benchmarks.soft_dimo.trials import unpacked

HEAD = f"""## Both refinements on emoji

The shipped student before and after {STEPS["reward"]} steps for a reward or {STEPS["gan"]} with a
GAN, T = 1, the same {PROMPTS:,} prompts; *true* is all that a prompt says, *thing* the thing alone,
read by a network that gives no gradient. FID and recall are of {IMAGES:,} images against other
pictures than the GAN was shown. *none* is the same training without reward or GAN, *alone* that
without Di[M]O.

"""


def section(measured: Mapping[str, Results]) -> str:
    """Both refinements where there is something to gain."""
    found, rows = measured["emoji"], []
    teachers = [f"teacher-{steps}" for steps in TEACHER_STEPS]
    for name in ("before", *ARMS, *teachers):
        if arms := seeds_of(found, name):
            gained = "" if name == "before" else str(gain(found, found, name, "before") or "")
            rows.append([name, *told(list(arms.values())), gained])
    head = ["training", "true", "thing", "FID", "recall", WATCHING, "diversity", "gain in true"]
    return HEAD + table(head, rows)


def told(arms: list[Mapping[str, Any]]) -> list[str]:
    """What is true of pictures, their distance to real ones, and what the judge says."""
    shares = [over_seeds([mean(unpacked(arm[key])) for arm in arms]) for key in ("true", "name")]
    keys = ("fid", "recall", WATCHING, "diversity")
    return shares + [of_all(arms, key) for key in keys]


def of_all(arms: list[Mapping[str, Any]], key: str) -> str:
    """A number of all seeds, or nothing where it was not measured."""
    values = [next((v for name, v in arm.items() if name.startswith(key)), None) for arm in arms]
    return "" if None in values else over_seeds([float(v) for v in values if v is not None])
