"""How long `dimo --help` takes, as a ratio to a ten-line Typer program in the same run.

Both are run in a terminal, where both draw their pages with boxes and colors, and as well into a
pipe, where dimo draws none.

python -m benchmarks.startup [--runs 15] [--json FILE]
"""

import argparse
import os
import platform
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.output import emit

BAR = 1.25
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


def in_terminal(command: list[str]) -> bytes:
    """Run a command as in a terminal; what it wrote on stdout."""
    ours, its = pty.openpty()
    with subprocess.Popen(command, stdout=its, env={**os.environ, "TERM": "xterm-256color"}) as run:
        os.close(its)
        page = b""
        while chunk := read(ours):
            page += chunk
    os.close(ours)
    if run.returncode:
        raise subprocess.CalledProcessError(run.returncode, command)
    return page


def read(terminal: int) -> bytes:
    """What is there to read; nothing once the other side is closed, which Linux calls an error."""
    try:
        return os.read(terminal, 65_536)
    except OSError:
        return b""


def piped(command: list[str]) -> None:
    """Run a command whose page nobody looks at."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def seconds(run: Callable[[list[str]], object], command: list[str]) -> float:
    """Wall time of a command."""
    started = time.perf_counter()
    run(command)
    return time.perf_counter() - started


def compare(
    run: Callable[[list[str]], object], commands: dict[str, list[str]], runs: int
) -> tuple[dict[str, float], float]:
    """Median seconds of programs that run in turn, so that a slow moment meets all; their ratio."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(runs + 1):
        for name, command in commands.items():
            took = seconds(run, command)
            if turn:  # the first one fills the caches
                times[name].append(took)
    ratios = [a / b for a, b in zip(times["dimo"], times["ten_lines"], strict=True)]
    medians = {name: statistics.median(took) for name, took in times.items()}
    return medians, statistics.median(ratios)


def measure(runs: int) -> dict[str, object]:
    """Time both programs."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "ten.py"
        program.write_text(TEN_LINES)
        commands = {
            "ten_lines": [sys.executable, str(program), "--help"],
            "dimo": [sys.executable, "-m", "dimo_cli", "--help"],
        }
        shown, ratio = compare(in_terminal, commands, runs)
        unseen, ratio_piped = compare(piped, commands, runs)
    return {
        "benchmark": "startup",
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "runs": runs,
        "seconds": shown,
        "ratio": ratio,
        "bar": BAR,
        "seconds_piped": unseen,
        "ratio_piped": ratio_piped,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    emit(measure(args.runs), args.json)
