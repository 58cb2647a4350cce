"""Adapters of rank 4, 16 and 64 against whole copies on `digits`: student, auxiliary, and both.

python -m benchmarks.lora_ranks [--work DIR] [--minutes N] [--json FILE]

Each rank, and whole copies, get the learning rates that suit them: those of the preset times the
power of two that is best at a seed of its own. Trainings that are done are kept in FILE by what
they depend on, and not done again; one that is stopped goes on from its checkpoint. `python -m
docs` makes the table of what is there.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.output import write
from dimo_cli.console.live import PlainView
from dimo_cli.evaluation.evaluate import evaluate
from dimo_cli.hub.store import HubStore
from dimo_cli.runs.distill import distill
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.evaluate import EvalSpec
from dimo_cli.specs.resolve import resolve_spec

RESULTS = Path(__file__).parent / "results" / "lora_ranks.json"
RANKS = (4, 16, 64)
SEEDS = (0, 1, 2)
STEPS, BATCH, IMAGES = 250, 32, 5000
WHOLE = 0  # in the place of a rank: all weights are trained
FACTORS = (0.5, 1.0, 2.0)  # of the preset's rates; on from the best as long as one beside it is new
FURTHEST = (2.0**-5, 2.0**5)
TRIED_AT = 100  # the seed at which they are tried
RATES = {"student": 4e-4, "auxiliary": 2.5e-3}  # of the preset
QUIET = ("monitor.fid_every=0", "monitor.table_samples=0", "monitor.preview_every=100000")


@dataclass(frozen=True)
class Role:
    """How a role is trained: its rank, and the factor on its rate."""

    rank: int
    factor: float


@dataclass(frozen=True)
class Arm:
    """A training."""

    student: Role
    auxiliary: Role
    seed: int

    @property
    def key(self) -> str:
        """What it is called in the file."""
        roles = {"student": self.student, "auxiliary": self.auxiliary}
        told = [f"{name} {role.rank} x {role.factor:g}" for name, role in roles.items()]
        return f"{', '.join(told)}, seed {self.seed}"

    def sets(self) -> list[str]:
        """What it changes of the preset."""
        found = [f"train.steps={STEPS}", f"train.batch_size={BATCH}", f"train.seed={self.seed}"]
        for name, role in {"student": self.student, "auxiliary": self.auxiliary}.items():
            rate = RATES[name] * role.factor
            found += [f"{name}.lora.rank={role.rank}", f"{name}.optimizer.learning_rate={rate:g}"]
        return found


class Kept:
    """What is known of trainings, in a file that is whole after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.arms: dict[str, Any] = read(path)["arms"]

    def value(self, arm: Arm) -> float | None:
        """The FID of an arm, if it is of these very settings."""
        row = self.arms.get(arm.key)
        return row["fid"] if row and row["sets"] == arm.sets() else None

    def keep(self, arm: Arm, fid: float, seconds: float) -> None:
        """Remember a training."""
        row = {"fid": round(fid, 5), "seconds": round(seconds, 1), "sets": arm.sets()}
        self.arms = {**self.arms, arm.key: row}
        command = "python -m benchmarks.lora_ranks"
        write({"command": command, "images": IMAGES, "arms": self.arms}, self.path)

    def tried(self, rank: int) -> dict[float, float]:
        """The FIDs of a rank by what its rates were multiplied with."""
        powers = [2.0**power for power in range(-5, 6)]
        values = {factor: self.value(trial(rank, factor)) for factor in powers}
        return {factor: fid for factor, fid in values.items() if fid is not None}

    def next_factor(self, rank: int) -> float | None:
        """What to try next: both neighbors of the best are to be known."""
        known = self.tried(rank)
        best = min(known, key=lambda factor: known[factor]) if known else FACTORS[0]
        wanted = [*FACTORS, best / 2, best * 2]
        low, high = FURTHEST
        return next((f for f in wanted if f not in known and low <= f <= high), None)

    def best_role(self, rank: int) -> Role | None:
        """A rank at the rates that suit it, once they are known."""
        if self.next_factor(rank) is not None:
            return None
        known = self.tried(rank)
        return Role(rank, min(known, key=lambda factor: known[factor]))

    def arm(self, student: int, auxiliary: int, seed: int) -> Arm | None:
        """A training of both ranks at the rates that suit them."""
        roles = self.best_role(student), self.best_role(auxiliary)
        return None if roles[0] is None or roles[1] is None else Arm(roles[0], roles[1], seed)

    def by_seed(self, student: int, auxiliary: int) -> dict[int, float]:
        """FIDs of both ranks at the rates that suit them, as far as they are known."""
        found = {seed: self.arm(student, auxiliary, seed) for seed in SEEDS}
        values = {seed: self.value(arm) for seed, arm in found.items() if arm is not None}
        return {seed: fid for seed, fid in values.items() if fid is not None}


def read(path: Path) -> Mapping[str, Any]:
    """The file, or an empty one."""
    if not path.is_file():
        return {"arms": {}}
    document: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def trial(rank: int, factor: float) -> Arm:
    """Both roles of a rank at some rates."""
    return Arm(Role(rank, factor), Role(rank, factor), TRIED_AT)


def pairs() -> list[tuple[int, int]]:
    """The ranks of student and auxiliary that are compared: first whole copies."""
    both = [(rank, rank) for rank in RANKS]
    apart = [*((rank, WHOLE) for rank in RANKS), *((WHOLE, rank) for rank in RANKS)]
    return [(WHOLE, WHOLE), *both, *apart]


def arms(kept: Kept) -> Iterator[Arm]:
    """What is to be trained next, until all is known: rates, and then what is compared by seed.

    Each has to be kept before the next is asked for.
    """
    for rank in (WHOLE, *RANKS):
        while (factor := kept.next_factor(rank)) is not None:
            yield trial(rank, factor)
    for seed in SEEDS:
        for student, auxiliary in pairs():
            arm = kept.arm(student, auxiliary, seed)
            if arm is not None and kept.value(arm) is None:
                yield arm


def carry_out(arm: Arm, work: Path) -> float:
    """Train an arm, or go on with it, and measure its student."""
    folder = work / re.sub(r"[^a-z0-9.]+", "-", arm.key)
    sets = [*QUIET, *arm.sets()]
    spec = resolve_spec(DistillSpec, preset="digits", sets=sets, environment={}).spec
    if not (folder / "summary.json").is_file():
        distill(spec, folder, PlainView(lambda line: None), (folder / "run.yaml").is_file())
    asked = EvalSpec(target=str(folder), metrics=("fid",), samples=IMAGES)
    values = evaluate(asked, HubStore(), use_cache=False).document()["values"]
    return float(next(value for name, value in values.items() if name.startswith("fid")))


def main() -> None:
    """Carry out what is not there yet."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lora_ranks", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/lora-ranks"))
    parser.add_argument("--minutes", type=float, help="begin no training after so many")
    parser.add_argument("--json", type=Path, default=RESULTS)
    asked = parser.parse_args()
    kept, begun = Kept(asked.json), time.monotonic()
    for arm in arms(kept):
        started = time.monotonic()
        if asked.minutes and started - begun > 60 * asked.minutes:
            break
        fid = carry_out(arm, asked.work)
        kept.keep(arm, fid, time.monotonic() - started)
        print(f"{arm.key}: {fid:.4f}", flush=True)


if __name__ == "__main__":
    main()
