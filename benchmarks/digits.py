"""The bars of the `digits` preset: FID ratios and time, over seeds, on this machine.

python -m benchmarks.digits [--seeds 0 1 2] [--set train.steps=...] [--json FILE]
"""

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.output import emit
from dimo_cli import __version__
from dimo_cli.console.live import PlainView
from dimo_cli.runs.distill import distill
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.resolve import resolve_spec


def run(seed: int, sets: list[str]) -> dict[str, float]:
    """One demo run: train, measure, and say how student and teacher compare."""
    sets = [*sets, f"train.seed={seed}"]
    spec = resolve_spec(DistillSpec, preset="digits", sets=sets, environment={}).spec
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = distill(spec, Path(folder), PlainView(print, seconds=30))
    assert result is not None  # it is the only process
    *teachers, student = result.rows
    best = min(teachers, key=lambda score: score.value)
    return {
        "seed": seed,
        "steps": spec.train.steps,
        "seconds_to_table": time.perf_counter() - started,
        "student_fid": student.value,
        "student_accuracy": student.accuracy,
        "teacher_best_fid": best.value,
        "teacher_best_steps": best.sampler["steps"],
        "teacher_fid_by_steps": {row.sampler["steps"]: row.value for row in teachers},
        "over_teacher_best": student.value / best.value,
        "over_teacher_one_step": student.value / teachers[0].value,
        "speed_up": best.seconds_per_image / student.seconds_per_image,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    runs = [run(seed, args.sets) for seed in args.seeds]
    keys = ("over_teacher_best", "over_teacher_one_step", "seconds_to_table", "speed_up")
    document = {
        "benchmark": "digits",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {"dimo": __version__, "torch": torch.__version__},
        "set": args.sets,
        "mean": {key: statistics.mean(row[key] for row in runs) for key in keys},
        "runs": runs,
    }
    emit(document, args.json)
