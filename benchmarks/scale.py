"""How a step's time and memory grow with L, V, the batch and the ranks: measured, fitted, drawn.

A fit is cost = a size^b; b tells how a step grows over the sizes that were measured. Ranks share
the samples of a step, on a machine whose cores they share as well.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import (
    device_of,
    environment,
    in_turn,
    medians,
    peak_bytes,
    power_law,
)
from benchmarks.networks import MASKGIT_SMALL, random_teacher
from benchmarks.plain import Recipe
from benchmarks.step import Ours, autocast_on, our_spec
from dimo_cli.reporting.charts import Chart, Series, draw

SMALL = {**MASKGIT_SMALL, "depth": 2, "ch": 32}
RANKS_BATCH, RANKS_STEPS = 64, 12
STYLE = (
    "<style>svg{font:11px sans-serif;background:#fff}.line{stroke:#ddd}.curve{fill:none;"
    "stroke:#06c;stroke-width:2}.dot{fill:#06c}.x{text-anchor:middle}.y{text-anchor:end}</style>"
)


def axes(gpu: bool) -> dict[str, dict[int, dict[str, Any]]]:
    """What is varied: for each size, the architecture and the batch."""
    sides = (16, 32, 48, 64) if gpu else (8, 12, 16, 24)
    vocabs = (1024, 4096, 16_384, 65_536) if gpu else (512, 2048, 8192, 32_768)
    batches = (8, 16, 32, 64) if gpu else (1, 2, 4, 8)
    base = {"grid": 16, "codebook_size": 1024, "batch": 8 if gpu else 2}
    return {
        "length": {side**2: {**base, "grid": side} for side in sides},
        "vocab": {vocab: {**base, "codebook_size": vocab} for vocab in vocabs},
        "batch": {batch: {**base, "batch": batch} for batch in batches},
    }


def cost(settings: Mapping[str, Any], device: torch.device, rounds: int) -> dict[str, float]:
    """Seconds and peak bytes of a step."""
    architecture = {**SMALL, **{k: v for k, v in settings.items() if k != "batch"}}
    teacher = random_teacher("maskgit", architecture, device)
    batch = int(settings["batch"])
    run = Ours(teacher, our_spec(batch, Recipe(batch, dropout=False)), autocast_on(device))
    run.step()
    with peak_bytes(device) as found:
        run.step()
    return {
        "seconds": medians(in_turn({"step": run.step}, rounds))["step"],
        "peak_bytes": found["peak"],
    }


def along(
    sizes: Mapping[int, Mapping[str, Any]],
    measure_at: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> dict[str, Any]:
    """Costs over sizes, with a fit of each."""
    costs = {size: measure_at(settings) for size, settings in sizes.items()}
    names = list(next(iter(costs.values())))
    fits = {name: fit(list(sizes), [found[name] for found in costs.values()]) for name in names}
    return {"costs": costs, "fits": fits}


def fit(sizes: Sequence[float], costs: Sequence[float]) -> dict[str, float]:
    """cost = factor size^exponent."""
    factor, exponent = power_law(list(sizes), list(costs))
    return {"factor": factor, "exponent": exponent}


def over_ranks(worlds: Sequence[int], gpu: bool) -> dict[int, dict[str, float]]:
    """Images per second of the built-in run when several processes share its batch."""
    return {world: {"images_per_second": images_per_second(world, gpu)} for world in worlds}


def images_per_second(world: int, gpu: bool) -> float:
    """What the log of a short run says, in the middle of it."""
    settings = {
        "train.steps": RANKS_STEPS,
        "train.batch_size": RANKS_BATCH,
        "train.log_every": 1,
        "train.checkpoint_every": RANKS_STEPS,
        "monitor.fid_every": 0,
        "monitor.table_samples": 0,
        "monitor.preview_every": 1000,
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "dimo_cli", "distill", "--preset", "digits"]
        command += ["--out", str(out), "--quiet", "--gpus" if gpu else "--processes", str(world)]
        for name, value in settings.items():
            command += ["--set", f"{name}={value}"]
        threads = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // world))}
        subprocess.run(command, check=True, env={**os.environ, **threads})
        lines = (out / "log.jsonl").read_text().splitlines()
    return statistics.median(json.loads(line)["images_per_second"] for line in lines[2:])


def picture(found: Mapping[str, Any], axis: str, name: str) -> str:
    """The costs over an axis as a file's SVG."""
    points = [(float(size), costs[name]) for size, costs in found["costs"].items()]
    exponent = found["fits"][name]["exponent"]
    title = f"{name} by {axis}, about {axis}^{exponent:.2f}"
    svg = draw(Chart(title, [Series(name, points)], x_name=title), f"{axis}-{name}")
    head, _, body = svg.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg" width="570">{STYLE}{body}\n'


def measure(gpu: bool, rounds: int, pictures: Path | None = None) -> dict[str, Any]:
    """The whole benchmark; pictures go into a folder, if one is given."""
    device = device_of(gpu)
    found = {
        axis: along(sizes, lambda settings: cost(settings, device, rounds))
        for axis, sizes in axes(gpu).items()
    }
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        for axis, costs in found.items():
            for name in costs["fits"]:
                file = pictures / f"scale-{axis}-{name}.svg"
                file.write_text(picture(costs, axis, name))
    worlds = range(1, 1 + (torch.cuda.device_count() if gpu else 2))
    ranks = over_ranks(list(worlds), gpu)
    exponents = {
        f"{name}_by_{axis}": costs["fits"][name]["exponent"]
        for axis, costs in found.items()
        for name in costs["fits"]
    }
    one = ranks[1]["images_per_second"]
    speed = {f"speed_of_{n}_ranks": r["images_per_second"] / one for n, r in ranks.items()}
    return {
        "benchmark": "scale",
        **environment(device),
        **found,
        "ranks": ranks,
        "ratios": {**exponents, **speed},
        "bars": {},
    }
