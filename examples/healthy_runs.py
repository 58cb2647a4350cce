"""The runs behind docs/healthy-curves.md: the preset `digits` as it is, and spoiled in four ways.

    python examples/healthy_runs.py runs/healthy          # about 10 minutes on 2 cores

Logs go to docs/generator/logs, samples to docs/pictures/healthy-samples.png; `python -m docs` then
draws the curves of four. A finished run in the folder is not run again.
"""

import json
from pathlib import Path

import numpy as np
import typer

from dimo_cli.console.live import PlainView
from dimo_cli.console.panels import labelled
from dimo_cli.files.png import enlarge, grid, save_png
from dimo_cli.runs.distill import distill
from dimo_cli.sampling.samplers import sample_images
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.folder import load_student
from dimo_cli.students.target import Target

DOCS = Path(__file__).parent.parent / "docs"
RUNS = [
    ("healthy", "healthy", ""),
    ("rate", "student's rate too high", "student.optimizer.learning_rate=0.01"),
    ("collapse", "collapsed", "student.optimizer.learning_rate=0.1"),
    ("auxiliary", "auxiliary too slow", "auxiliary.optimizer.learning_rate=4e-5"),
    ("masks", "nothing but masks as input", "init.mask_ratio=1"),
]
KEPT = ("step", "fid", "divergence", "auxiliary_loss", "auxiliary_gap", "entropy", "top1",
        "student_gradient", "skipped", "rollbacks")  # fmt: skip


def train(folder, changed, steps):
    """One run, if it is not there already; returns its student."""
    if not (folder / "student" / "dimo.json").exists():
        short = [f"train.steps={steps}", "monitor.table_samples=0", "monitor.preview_every=1000",
                 f"monitor.fid_every={max(1, steps // 6)}", "monitor.fid_samples=500"]  # fmt: skip
        sets = [*short, *filter(None, [changed])]
        spec = resolve_spec(DistillSpec, preset="digits", sets=sets, environment={}).spec
        distill(spec, folder, PlainView(print))
    return load_student(folder)


def main(folder: Path, steps: int = 300, out: Path = DOCS) -> None:
    """Train what is missing, then write logs and samples."""
    logs, bands = out / "generator" / "logs", []
    logs.mkdir(parents=True, exist_ok=True)
    for name, label, changed in RUNS:
        student = train(folder / name, changed, steps)
        lines = map(json.loads, (folder / name / "log.jsonl").read_text().splitlines())
        short = [{key: line[key] for key in KEPT if key in line} for line in lines]
        (logs / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in short))
        target = Target(student.teacher, student)
        pixels, _ = sample_images(target, list(range(10)) * 2, SamplerSpec(seed=1))
        bands.append(labelled(label, grid(enlarge(pixels, 32), columns=20, gap=4)))
    about = [{"name": name, "label": label, "changed": changed, "drawn": name != "masks"}
             for name, label, changed in RUNS]  # fmt: skip
    (logs / "runs.json").write_text(json.dumps(about, indent=2) + "\n")
    save_png(np.concatenate(bands), out / "pictures" / "healthy-samples.png", {})


if __name__ == "__main__":
    typer.run(main)
