"""python -m benchmarks step|loss|sample|eval|scale|training [--json [FILE]] [--rounds N]
python -m benchmarks gpu [--out DIR]: the tests and benchmarks of a card, see benchmarks/gpu.py

Prints the ratios and their bars, or with --json the whole result as one document, which also goes
into FILE if one is named. `--clock cpu` takes this process's own time, for a machine that others
use as well.

`--gpu` measures step, loss, sample and training at the real sizes on a card, one shape after the
other: FILE has what there is after each. `--only` leaves all shapes out but one, and `--tiny` runs
the same code on the CPU at sizes that say nothing.
"""

import argparse
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.measuring import Clock, device_of
from benchmarks.output import emit, rows_table, table, write
from benchmarks.real.pieces import Setting

MODULES = {
    "step": "benchmarks.step",
    "loss": "benchmarks.loss",
    "sample": "benchmarks.sample",
    "eval": "benchmarks.evaluation",
    "scale": "benchmarks.scale",
}
REAL = {name: f"benchmarks.real.{name}" for name in ("step", "loss", "sample", "training")}
RESULTS = Path(__file__).parent / "results"
PRINTED = Path("-")


def main() -> None:
    """Run one benchmark, or all that is asked of a card."""
    if sys.argv[1:2] == ["gpu"]:
        raise SystemExit(import_module("benchmarks.gpu").main(sys.argv[2:]))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("benchmark", choices={**MODULES, **REAL})
    parser.add_argument("--json", type=Path, nargs="?", const=PRINTED, metavar="FILE")
    parser.add_argument("--gpu", action="store_true", help="sizes of a real card, on that card")
    parser.add_argument("--tiny", action="store_true", help="as --gpu, but small, on the CPU")
    parser.add_argument("--only", metavar="SHAPE", help="of the shapes of --gpu, this one alone")
    parser.add_argument("--rounds", type=int, default=7, help="times that each call is measured")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    asked = parser.parse_args()
    if asked.rounds < 1:
        parser.error("--rounds must be 1 or more")
    Clock.choose(asked.clock)
    if asked.benchmark in REAL and (asked.gpu or asked.tiny):
        sys.exit(measure_real(asked))
    if asked.benchmark not in MODULES:
        parser.error(f"{asked.benchmark} needs --gpu or --tiny")
    measure = import_module(MODULES[asked.benchmark]).measure
    pictures = {"pictures": RESULTS} if asked.benchmark == "scale" and asked.json else {}
    document = measure(asked.gpu, asked.rounds, **pictures)
    if asked.json is None:
        print(table(document))
    else:
        emit(document, None if asked.json == PRINTED else asked.json)


def measure_real(asked: argparse.Namespace) -> int:
    """The real sizes on a card, or tiny ones; the exit code says whether a shape has failed."""
    file = asked.json if asked.json not in (None, PRINTED) else None
    setting = Setting(device_of(asked.gpu), asked.tiny, asked.rounds, 0 if asked.tiny else 12)
    module = import_module(REAL[asked.benchmark])
    document = module.measure(setting, lambda found: write(found, file), asked.only)
    if asked.json == PRINTED:
        emit(document, None)
    else:
        print(rows_table(document))
    return 1 if document["failed"] or not document["details"] else 0


if __name__ == "__main__":
    main()
