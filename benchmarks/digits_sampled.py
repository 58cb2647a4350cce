"""FID on digits of students and of their teacher, each over the same sampling seeds.

python -m benchmarks.digits_sampled [RUN ...] [--json FILE]

Each RUN is a training of the preset (`dimo distill --preset digits --set train.seed=N --out RUN`);
the student that ships and its teacher are measured beside them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.output import emit
from dimo_cli import __version__
from dimo_cli.evaluation.evaluate import evaluate
from dimo_cli.hub.store import HubStore
from dimo_cli.specs.evaluate import EvalSpec
from dimo_cli.specs.sample import SamplerSpec

BUILT_IN = "digits"
IMAGES = 5000
SEEDS = (20_000, 20_001, 20_002, 20_003, 20_004)  # the first is that of `dimo eval`
TEACHER_STEPS = (1, 4, 16)


def fid(target: str, **settings: Any) -> list[float]:
    """The FID of a target at every sampling seed."""
    found = []
    for seed in SEEDS:
        sampler = SamplerSpec(seed=seed, **settings)
        asked = EvalSpec(target=target, metrics=("fid",), samples=IMAGES, sampler=sampler)
        values = evaluate(asked, HubStore(), use_cache=False).document()["values"]
        found.append(round(float(values["fid5k"]), 5))
    return found


def measure(runs: list[Path]) -> dict[str, Any]:
    """All FIDs: of the trained students, of the one that ships, and of the teacher by steps."""
    return {
        "benchmark": "digits_sampled",
        "versions": {"dimo": __version__, "torch": torch.__version__},
        "images": IMAGES,
        "seeds": SEEDS,
        "trained": {run.name: fid(str(run)) for run in runs},
        "built_in": fid(BUILT_IN),
        "teacher": {steps: fid(BUILT_IN, teacher=True, steps=steps) for steps in TEACHER_STEPS},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    emit(measure(args.runs), args.json)
