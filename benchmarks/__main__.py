"""python -m benchmarks step|loss|sample|eval|scale [--json [FILE]] [--gpu] [--rounds N]
python -m benchmarks gpu [--out DIR]: the tests and benchmarks of a card, see benchmarks/gpu.py

Prints the ratios and their bars, or with --json the whole result as one document, which also goes
into FILE if one is named. `--clock cpu` takes this process's own time, for a machine that others
use as well.
"""

import argparse
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.measuring import Clock
from benchmarks.output import emit, table

MODULES = {
    "step": "benchmarks.step",
    "loss": "benchmarks.loss",
    "sample": "benchmarks.sample",
    "eval": "benchmarks.evaluation",
    "scale": "benchmarks.scale",
}
RESULTS = Path(__file__).parent / "results"
PRINTED = Path("-")


def main() -> None:
    """Run one benchmark, or all that is asked of a card."""
    if sys.argv[1:2] == ["gpu"]:
        raise SystemExit(import_module("benchmarks.gpu").main(sys.argv[2:]))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("benchmark", choices=MODULES)
    parser.add_argument("--json", type=Path, nargs="?", const=PRINTED, metavar="FILE")
    parser.add_argument("--gpu", action="store_true", help="sizes of a real card, on that card")
    parser.add_argument("--rounds", type=int, default=7, help="times that each call is measured")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    asked = parser.parse_args()
    if asked.rounds < 1:
        parser.error("--rounds must be 1 or more")
    Clock.choose(asked.clock)
    measure = import_module(MODULES[asked.benchmark]).measure
    pictures = {"pictures": RESULTS} if asked.benchmark == "scale" and asked.json else {}
    document = measure(asked.gpu, asked.rounds, **pictures)
    if asked.json is None:
        print(table(document))
    else:
        emit(document, None if asked.json == PRINTED else asked.json)


if __name__ == "__main__":
    main()
