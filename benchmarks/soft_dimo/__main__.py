"""Soft-Di[M]O's claims, tried on the embedded teachers.

python -m benchmarks.soft_dimo [--only PART[/NAME] ...] [--work DIR] [--minutes N]

Every trial is kept in benchmarks/results/soft_dimo/ by what it depends on, and not done again. A
training that is stopped goes on from its checkpoint. All of it takes a day on 2 CPU cores; then
`python -m docs` writes the report, its curves and the README's table.
"""

import argparse
import time
from pathlib import Path

from benchmarks.soft_dimo import distilling, emoji, estimators, gan, rewards, softness, steps, tteo
from benchmarks.soft_dimo.trials import Trial

PARTS = {
    "steps": steps.trials,
    "rewards": rewards.trials,
    "gan": gan.trials,
    "tteo": tteo.trials,
    "estimators": estimators.trials,
    "softness": softness.trials,
    "distilling": distilling.trials,
    "emoji": emoji.trials,
}


def asked_for(only: list[str]) -> list[Trial]:
    """The trials of whole parts, or those whose names begin as asked."""
    every = [trial for trials in PARTS.values() for trial in trials()]
    names = [name if "/" in name else f"{name}/" for name in only]
    return [
        trial
        for trial in every
        if not names or any(f"{trial.part}/{trial.name}".startswith(name) for name in names)
    ]


def main() -> None:
    """Carry out what is not there yet."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soft_dimo", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="PART[/NAME]")
    parser.add_argument("--work", type=Path, default=Path("runs/soft-dimo"))
    parser.add_argument("--minutes", type=float, help="begin no trial after so many")
    parser.add_argument("--list", action="store_true", help="only say what is there")
    asked = parser.parse_args()
    trials, started = asked_for(asked.only), time.monotonic()
    for trial in trials:
        done = trial.result() is not None
        if asked.list:
            print("done" if done else "to do", f"{trial.part}/{trial.name}")
            continue
        if not done and asked.minutes and time.monotonic() - started > 60 * asked.minutes:
            break
        trial.carry_out(asked.work)
        if not done:
            print(f"{trial.part}/{trial.name}", flush=True)


if __name__ == "__main__":
    main()
