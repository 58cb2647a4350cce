"""Images a second of the `digits` preset in the trainer itself: log, average, checkpoints and all.

A network of 0.2 million weights asks next to nothing of a card: what is measured is the waiting.
"""

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.real.pieces import Found, Keep, Row, Setting, measure_pieces
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.teachers.registry import load_teacher
from dimo_cli.training.trainer import Trainer
from dimo_cli.training.watcher import Idle

STEPS = {False: 800, True: 8}


def measure(setting: Setting, keep: Keep, only: str | None = None) -> dict[str, Any]:
    """The preset, which is one piece."""
    return measure_pieces("training", {"digits": measure_digits}, setting, keep)


def measure_digits(setting: Setting) -> Found:
    """The later half of a run's log, when everything has been compiled and captured."""
    sets = [f"train.steps={STEPS[setting.tiny]}", "train.checkpoint_every=400"]
    sets += ["monitor.fid_every=0", f"monitor.preview_every={10**6}"]
    spec = resolve_spec(DistillSpec, preset="digits", sets=sets, environment={}).spec
    with tempfile.TemporaryDirectory() as folder:
        Trainer(spec, load_teacher(spec.teacher), Path(folder), Idle()).run()
        lines = (Path(folder) / "log.jsonl").read_text().splitlines()
    speeds = [json.loads(line)["images_per_second"] for line in lines]
    later = speeds[len(speeds) // 2 :]
    row = Row(
        f"digits training, batch {spec.train.batch_size}",
        statistics.median(later),
        15_000,
        better="higher",
        unit="images/s",
        before=2_000,
    )
    return Found([row], {"steps": spec.train.steps, "least": min(later), "most": max(later)})
