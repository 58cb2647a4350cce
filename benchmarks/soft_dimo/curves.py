"""Curves of the GAN's arms along the training, as Figs. 4, 17 and 18 have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from benchmarks.soft_dimo.evidence import BySeed, Results, seeds_of
from dimo_cli.reporting.charts import Chart, Point, Series
from docs.generator.healthy import standing_alone


@dataclass(frozen=True)
class Picture:
    """A number of some arms along the training."""

    file: str
    key: str
    title: str
    figures: str
    """What it answers in the paper."""
    arms: Sequence[str]
    """At most four: so many colors there are."""


FID, JUDGED = "FID of 1,000 images", ("control", "soft", "gumbel", "sharpened")
PICTURES = (
    Picture("fid", "fid", FID, "Figs. 4a and 4b", ("control", "soft", "gumbel", "gan-alone")),
    Picture("masks", "fid", FID, "Fig. 4c", ("soft", "mask-0", "mask-0.5", "start-0")),
    Picture("entropy", "entropy", "Entropy, nats per token", "Fig. 17", JUDGED),
    Picture("top1", "top1", "Largest probability of a token", "Fig. 18", JUDGED),
)


def files(gan: Results) -> dict[str, str]:
    """The pictures by file name; none where no arm of one was run."""
    drawn = {file_of(picture): draw(picture, gan) for picture in PICTURES}
    return {name: svg for name, svg in drawn.items() if svg is not None}


def text(gan: Results) -> str:
    """The pictures in the report, each with its seeds and with what is missing."""
    lines = ["FID along the training is against all 1,797 real digits."]
    for picture in PICTURES:
        arms = run_arms(picture, gan)
        if not shared(arms):
            lines.append(f"{picture.title} ({picture.figures}): not run.")
            continue
        seeds = ", ".join(str(seed) for seed in shared(arms))
        missing = ", ".join(name for name in picture.arms if name not in arms)
        told = f"{picture.title} along the training ({picture.figures}), mean of seeds: {seeds}."
        lines.append(told + (f" Not run: {missing}." if missing else ""))
        lines.append(f"![{picture.title}]({file_of(picture)})")
    return "\n\n".join(lines) + "\n"


def file_of(picture: Picture) -> str:
    """What it is called beside the report."""
    return f"soft-dimo-{picture.file}.svg"


def draw(picture: Picture, gan: Results) -> str | None:
    """The picture of the arms that were run, over the seeds that all of them have."""
    arms = run_arms(picture, gan)
    seeds = shared(arms)
    if not seeds:
        return None
    series = [
        Series(name, averaged([arm[seed]["curve"] for seed in seeds], picture.key))
        for name, arm in arms.items()
    ]
    return standing_alone(Chart(picture.title, series), f"gan-{picture.file}")


def run_arms(picture: Picture, gan: Results) -> dict[str, BySeed]:
    """The arms of a picture that were run at all."""
    found = {name: seeds_of(gan, name) for name in picture.arms}
    return {name: arms for name, arms in found.items() if arms}


def shared(arms: Mapping[str, BySeed]) -> list[int]:
    """The seeds that all these arms have."""
    return sorted(set.intersection(*(set(arm) for arm in arms.values()))) if arms else []


def averaged(curves: Sequence[Mapping[str, Sequence[float | None]]], key: str) -> list[Point]:
    """The mean over seeds at each step at which all of them were measured."""
    first = curves[0]
    rows = zip(first["step"], *(curve[key] for curve in curves), strict=True)
    return [
        (float(step), round(mean(values), 4))
        for step, *values in rows
        if step is not None and None not in values
    ]
