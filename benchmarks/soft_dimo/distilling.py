"""What the papers say of Di[M]O's own settings, on digits: a short training of each."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.soft_dimo.gan import FILES
from benchmarks.soft_dimo.measuring import SEEDS
from benchmarks.soft_dimo.trials import Trial
from dimo_cli.console.live import PlainView
from dimo_cli.runs.distill import distill
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.resolve import resolve_spec

STEPS, IMAGES = 400, 5000
ARMS: dict[str, tuple[str, ...]] = {
    "preset": (),
    "updates-4": ("auxiliary.updates=4",),
    "entropy-bonus": ("loss.entropy_bonus=0.1",),
    "soft-content": ("masking.content=soft",),
    "guidance-2": ("teacher.guidance.scale=2",),
    "guidance-4": ("teacher.guidance.scale=4",),
    "guidance-ramp": (
        "teacher.guidance.kind=linear",
        "teacher.guidance.start=1",
        "teacher.guidance.scale=3",
    ),
}
"""The ramp has the guidance of `guidance-2` on average."""


def trials() -> list[Trial]:
    """All arms of a seed, then those of the next."""
    found = []
    for seed in SEEDS:
        for name, sets in ARMS.items():
            settings = {"sets": list(sets), "seed": seed, "steps": STEPS, "images": IMAGES}
            run = partial(by_distilling, sets, seed)
            found.append(Trial("distilling", f"{name}-{seed}", settings, run, FILES))
    return found


def by_distilling(sets: tuple[str, ...], seed: int, folder: Path) -> dict[str, Any]:
    """FID of the student, and how many of its digits are of the class they were drawn as."""
    common = [
        f"train.seed={seed}",
        f"train.steps={STEPS}",
        f"monitor.table_samples={IMAGES}",
        "monitor.teacher_steps=[1]",
        "monitor.fid_every=0",
        "monitor.preview_every=100000",
    ]
    spec = resolve_spec(DistillSpec, preset="digits", sets=[*common, *sets], environment={}).spec
    resume = (folder / "run" / "run.yaml").is_file()
    result = distill(spec, folder / "run", PlainView(print, seconds=60), resume)
    assert result is not None  # it is the only process
    student = result.rows[-1]
    return {"fid": round(student.value, 5), "accuracy": student.accuracy}
