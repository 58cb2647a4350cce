"""Refinement for a reward: estimators, judges and norm ratios, with Di[M]O and without."""

from __future__ import annotations

import json
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.soft_dimo.shapes import (
    JUDGE_FILES,
    SEEDS,
    STRONG,
    STUDENT_FILES,
    WATCHING,
    WEAK,
    diversity_of,
    refined,
    tasks,
    unrefined,
    verdicts_of,
)
from benchmarks.soft_dimo.trials import Trial
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.target import Target

ESTIMATORS = ("soft", "gumbel_st", "reinforce")
RATIOS = (0.3, 1.0, 5.0)
STEPS, PROBED = 300, 60
TEMPERATURE = 1.0


def trials() -> list[Trial]:
    """The strong judge and soft embeddings first: the claim that counts most."""
    found = []
    arms = product(SEEDS, (STRONG, WEAK), ("dimo", "alone"), ESTIMATORS, RATIOS)
    for seed, judge, beside, estimator, ratio in arms:
        settings = {
            "estimator": estimator,
            "judge": judge,
            "ratio": ratio,
            "beside": beside,
            "seed": seed,
            "steps": STEPS,
            "temperature": TEMPERATURE,
        }
        name = f"{judge}-{estimator}-{ratio}-{beside}-{seed}"
        run = partial(by_refining, estimator, judge, ratio, beside, seed)
        found.append(Trial("rewards", name, settings, run, (*STUDENT_FILES, *JUDGE_FILES)))
    return found


def by_refining(
    estimator: str, judge: str, ratio: float, beside: str, seed: int, folder: Path
) -> dict[str, Any]:
    """Refine the student that ships, and judge what became of it as it was judged before."""
    common = [
        "start=shapes",
        f"relax.kind={estimator}",
        f"reward.terms={{{judge}: 1.0}}",
        f"reward.held_out={WATCHING}",
        f"train.seed={seed}",
        f"student.temperature={TEMPERATURE}",
        "train.log_every=10",
    ]
    start = unrefined().manifest.weights_sha256[:8]
    probe = folder.parent / f"probe-{start}-{judge}-{estimator}-{seed}"
    refined(probe, [*common, "reward.weight=1e-6", f"train.steps={PROBED}"])
    norms = last_line(probe)
    weight = ratio * norms["distill_norm"] / norms["reward_norm"]
    more = [f"reward.weight={weight}", f"train.steps={STEPS}"]
    # A guard would end some arms and not others; what it would have ended is to be seen.
    more += ["reward.patience=1000", f"distill_weight={1.0 if beside == 'dimo' else 0.0}"]
    student = refined(folder / "run", [*common, *more])
    spec = SamplerSpec(seed=seed, temperature=TEMPERATURE)
    found = verdicts_of(Target(student.teacher, student), tasks(), spec)
    last = last_line(folder / "run")
    names = ("reward_norm", "weighted_reward_norm", "distill_norm", "reward_ratio", "entropy")
    return {
        **found,
        "diversity": diversity_of(student, TEMPERATURE, seed),
        "weight": weight,
        "log": {name: last[name] for name in names if name in last},
    }


def last_line(run: Path) -> dict[str, float]:
    """The last numbers of a run's log."""
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    merged: dict[str, float] = {}
    for line in lines:
        merged |= json.loads(line)
    return merged
