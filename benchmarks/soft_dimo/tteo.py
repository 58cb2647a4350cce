"""Test-time embedding optimization against best of N, judged by what did not select."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.soft_dimo.measuring import judge
from benchmarks.soft_dimo.shapes import (
    JUDGE_FILES,
    STRONG,
    STUDENT_FILES,
    WATCHING,
    tasks,
    unrefined,
)
from benchmarks.soft_dimo.trials import Trial, packed
from dimo_cli.metrics.shapes import is_true
from dimo_cli.sampling.tteo import optimize_prompt, settled
from dimo_cli.specs.tteo import TteoSpec
from dimo_cli.students.published import open_student
from dimo_cli.students.student import LoadOptions

PROMPTS = 1200
BUDGETS = {
    "plain": (1, 0),
    "best-of-4": (4, 0),
    "best-of-16": (16, 0),
    "best-of-64": (64, 0),
    "4x2": (4, 2),
    "4x4": (4, 4),
    "8x2": (8, 2),
    "8x4": (8, 4),
}
REFINED = Path("runs/soft-dimo/refined")  # a copy or link of the run that the report names best


def trials() -> list[Trial]:
    """Every budget from both students, softly decoded and by the likeliest codes."""
    found = []
    for whose in ("base", "refined"):
        for decode in ("soft", "argmax"):
            for name, (starts, updates) in BUDGETS.items():
                settings = {
                    "starts": starts,
                    "updates": updates,
                    "decode": decode,
                    "prompts": PROMPTS,
                    "judge": STRONG,
                    "student": whose,
                }
                run = partial(by_optimizing, whose, decode, starts, updates)
                files = (*STUDENT_FILES, *JUDGE_FILES)
                found.append(Trial("tteo", f"{whose}-{decode}-{name}", settings, run, files))
    return found


def by_optimizing(
    whose: str, decode: str, starts: int, updates: int, folder: Path
) -> dict[str, Any]:
    """Verdicts and seconds; the strong judge gives gradient and selection, and nothing else."""
    options = LoadOptions(with_teacher=True)
    student = unrefined() if whose == "base" else open_student(str(REFINED), options)
    asked = {"starts": starts, "iterations": updates, "decode": decode, "rewards": {STRONG: 1.0}}
    spec = settled(student, TteoSpec.model_validate(asked))
    rewards, watching = {STRONG: (judge(STRONG), 1.0)}, judge(WATCHING)
    verdicts, seconds, watched = [], 0.0, 0.0
    for number, task in enumerate(tasks()[:PROMPTS]):
        outcome = optimize_prompt(
            student, rewards, task.prompt, spec.model_copy(update={"seed": number})
        )
        verdicts.append(is_true(task.scene, outcome.after))
        seconds += outcome.seconds
        image = torch.from_numpy(outcome.after).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            watched += float(watching(image, watching.prepare([task.prompt])))
    return {
        "true": packed(verdicts),
        "seconds": round(seconds / PROMPTS, 4),
        WATCHING: round(watched / PROMPTS, 4),
    }
