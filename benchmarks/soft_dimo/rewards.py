"""Refinement for a reward: estimators, judges and norm ratios, with Di[M]O and without."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.soft_dimo.measuring import SEEDS, diversity_of, refined
from benchmarks.soft_dimo.shapes import (
    JUDGE_FILES,
    STRONG,
    STUDENT_FILES,
    WATCHING,
    WEAK,
    captions,
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
LONGER = (900,)  # more steps of the arm that the claims are of, where time allows
TEMPERATURE = 1.0
PRESET = "shapes-reward"


@dataclass(frozen=True)
class Arm:
    """A refinement for a reward, with its seed left open."""

    judge: str
    estimator: str
    ratio: float
    beside: str
    """`dimo`: with the Di[M]O term; `alone`: without."""
    steps: int = STEPS

    def __str__(self) -> str:
        return f"{self.judge}-{self.estimator}-{self.ratio}-{self.beside}"

    def named(self, seed: int) -> str:
        """The trial of a seed; only other numbers of steps than usual are said."""
        return f"{self}-{seed}" + (f"-{self.steps}" if self.steps != STEPS else "")


ARMS = tuple(
    Arm(judge, estimator, ratio, beside)
    for judge, beside, estimator, ratio in product(
        (STRONG, WEAK), ("dimo", "alone"), ESTIMATORS, RATIOS
    )
)
MAIN = Arm(STRONG, "soft", 1.0, "dimo")  # the refinement that the preset is


def trials() -> list[Trial]:
    """The strong judge and soft embeddings first: the claim that counts most."""
    longer = [replace(MAIN, steps=steps) for steps in LONGER]
    return [of_seed(arm, seed) for arms in (ARMS, longer) for seed in SEEDS for arm in arms]


def of_seed(arm: Arm, seed: int) -> Trial:
    """An arm with a seed."""
    settings = {**asdict(arm), "seed": seed, "temperature": TEMPERATURE}
    run = partial(by_refining, arm, seed)
    files = (*STUDENT_FILES, *JUDGE_FILES)
    return Trial("rewards", arm.named(seed), settings, run, files)


def by_refining(arm: Arm, seed: int, folder: Path) -> dict[str, Any]:
    """Refine the student that ships, and judge what became of it as it was judged before."""
    common = [
        "start=shapes",
        f"relax.kind={arm.estimator}",
        f"reward.terms={{{arm.judge}: 1.0}}",
        f"reward.held_out={WATCHING}",
        f"train.seed={seed}",
        f"student.temperature={TEMPERATURE}",
        "train.log_every=10",
    ]
    start = unrefined().manifest.weights_sha256[:8]
    probe = folder.parent / f"probe-{start}-{arm.judge}-{arm.estimator}-{seed}"
    refined(probe, [*common, "reward.weight=1e-6", f"train.steps={PROBED}"], PRESET)
    norms = last_line(probe)
    weight = arm.ratio * norms["distill_norm"] / norms["reward_norm"]
    more = [f"reward.weight={weight}", f"train.steps={arm.steps}"]
    # A guard would end some arms and not others; what it would have ended is to be seen.
    more += ["reward.patience=1000", f"distill_weight={1.0 if arm.beside == 'dimo' else 0.0}"]
    student = refined(folder / "run", [*common, *more], PRESET)
    spec = SamplerSpec(seed=seed, temperature=TEMPERATURE)
    found = verdicts_of(Target(student.teacher, student), tasks(), spec)
    last = last_line(folder / "run")
    names = ("reward_norm", "weighted_reward_norm", "distill_norm", "reward_ratio", "entropy")
    return {
        **found,
        "diversity": diversity_of(student, captions(), TEMPERATURE, seed),
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
