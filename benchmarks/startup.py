"""How long `dimo --help` takes, as a ratio to a ten-line Typer program in the same run.

python -m benchmarks.startup [--runs 15] [--json FILE]
"""

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.output import emit

TEN_LINES = '''import typer
app = typer.Typer(help="A program.")
@app.command()
def one(name: str = typer.Option("x", help="A name.")) -> None:
    """Say a name."""
    print(name)
@app.command()
def two() -> None:
    """Say nothing."""
app()
'''


def seconds(command: list[str]) -> float:
    """Wall time of a command."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def measure(runs: int) -> dict[str, object]:
    """Time both programs in turn, so that a slow moment of the machine meets both."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "ten.py"
        program.write_text(TEN_LINES)
        commands = {
            "ten_lines": [sys.executable, str(program), "--help"],
            "dimo": [sys.executable, "-m", "dimo_cli", "--help"],
        }
        for command in commands.values():
            seconds(command)
        times = {name: [seconds(cmd) for _ in range(1)] for name, cmd in commands.items()}
        for _ in range(runs - 1):
            for name, command in commands.items():
                times[name].append(seconds(command))
    ratios = [a / b for a, b in zip(times["dimo"], times["ten_lines"], strict=True)]
    return {
        "benchmark": "startup",
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "runs": runs,
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "ratio": statistics.median(ratios),
        "bar": 1.5,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    emit(measure(args.runs), args.json)
