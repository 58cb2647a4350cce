"""Adapters of rank 4, 16 and 64 against whole copies on `digits`: student, auxiliary, and both.

python -m benchmarks.lora_ranks [--work DIR] [--minutes N] [--json FILE]

Each rank, and whole copies, get the learning rates that suit them: those of the preset times what
is best at a seed of its own. Trainings that are done are kept in FILE by what they depend on, and
not done again; one that is stopped goes on from its checkpoint. `python -m docs` makes the table of
what is there.
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
FACTORS = (0.5, 1.0, 2.0)  # by which the preset's rates are tried
TRIED_AT = 100  # the seed at which they are
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

    def best_role(self, rank: int) -> Role | None:
        """A rank at the rates that suit it, once all were tried."""
        values = {arm.student: self.value(arm) for arm in tries(rank)}
        known = {role: fid for role, fid in values.items() if fid is not None}
        return min(known, key=lambda role: known[role]) if len(known) == len(values) else None

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


def tries(rank: int) -> list[Arm]:
    """Both roles of a rank at all rates."""
    roles = [Role(rank, factor) for factor in FACTORS]
    return [Arm(role, role, TRIED_AT) for role in roles]


def pairs() -> list[tuple[int, int]]:
    """The ranks of student and auxiliary that are compared: first whole copies."""
    both = [(rank, rank) for rank in RANKS]
    apart = [*((rank, WHOLE) for rank in RANKS), *((WHOLE, rank) for rank in RANKS)]
    return [(WHOLE, WHOLE), *both, *apart]


def arms(kept: Kept) -> Iterator[Arm]:
    """All trainings: those that find the rates, and then, seed by seed, those that are compared."""
    for rank in (WHOLE, *RANKS):
        yield from tries(rank)
    for seed in SEEDS:
        for student, auxiliary in pairs():
            if (arm := kept.arm(student, auxiliary, seed)) is not None:
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
        if kept.value(arm) is not None:
            continue
        started = time.monotonic()
        if asked.minutes and started - begun > 60 * asked.minutes:
            break
        fid = carry_out(arm, asked.work)
        kept.keep(arm, fid, time.monotonic() - started)
        print(f"{arm.key}: {fid:.4f}", flush=True)


if __name__ == "__main__":
    main()
