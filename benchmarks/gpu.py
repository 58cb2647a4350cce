"""python -m benchmarks gpu [--out DIR]: all that is asked of a card, in at most eight minutes.

Each benchmark alone on the card, then the tests side by side. Every part is a process of its own
with a limit of its own: one that fails or hangs loses nothing of the others. Each writes a JSON
file into one folder, with what it printed beside it, and one table tells what was asked and got.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "gpu"
WHOLE_LIMIT = 480.0  # seconds that all parts have together
COMPILED = "tests/gpu/test_compiled.py"
TESTS = {
    "training": ["tests/gpu/test_training.py"],
    "networks": ["tests/gpu/test_networks.py"],
    "captured": ["tests/gpu/test_captured.py"],
    "commands": ["tests/gpu/test_commands.py"],
    # A family takes about a minute to compile from nothing: `pytest -m gpu tests/gpu` has them all.
    "compiled_classes": [COMPILED, "-k", "(trains and maskbit) or (draws and maskgit)"],
    "compiled_text": [COMPILED, "-k", "(trains and shapes) or (draws and maskgen)"],
    "compiled_large": [COMPILED, "-k", "trains and meissonic"],
    "others": ["tests/test_pipeline.py", "tests/training/test_trainer.py"],
}
TEST_LIMIT = 130.0
# Part: the benchmark and its shape, and the seconds it may take, compiling included.
BENCHMARKS: dict[str, tuple[list[str], float]] = {
    "step_maskbit": (["step", "--only", "maskbit"], 75.0),
    "loss": (["loss"], 40.0),
    "sample_maskbit": (["sample", "--only", "maskbit"], 60.0),
    "training_digits": (["training"], 70.0),
    "sample_meissonic": (["sample", "--only", "meissonic"], 100.0),
    "step_meissonic": (["step", "--only", "meissonic"], 110.0),
}


@dataclass
class Part:
    """One process: what it runs, for how long at most, and how it ended."""

    name: str
    command: Sequence[str]
    limit: float
    out: Path
    environment: dict[str, str] = field(default_factory=dict)
    ended: str = "not started"
    seconds: float = 0.0
    started: float = 0.0
    process: subprocess.Popen[bytes] | None = None

    @property
    def document(self) -> Path:
        """Where its figures are."""
        return self.out / f"{self.name}.json"

    def start(self) -> None:
        """Begin; what it prints goes into a file beside its document."""
        self.document.unlink(missing_ok=True)  # that of an earlier time would be taken for this one
        self.started = time.monotonic()
        with (self.out / f"{self.name}.txt").open("wb") as printed:
            self.process = subprocess.Popen(
                [sys.executable, *self.command],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": python_path(), **self.environment},
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that a limit ends whatever it started as well
            )

    def finish(self, deadline: float) -> None:
        """Wait until it ends, or end it at its limit."""
        assert self.process is not None
        limit = min(self.started + self.limit, deadline)
        try:
            code = self.process.wait(max(0.0, limit - time.monotonic()))
            self.ended = "ok" if code == 0 else f"failed ({code})"
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.ended = "too long"
        self.seconds = time.monotonic() - self.started

    def rows(self) -> list[dict[str, Any]]:
        """What it measured and what was asked of it; nothing if it did not come so far."""
        if not self.document.exists():
            return []
        found: list[dict[str, Any]] = json.loads(self.document.read_text())["rows"]
        return found

    def last_words(self) -> str:
        """The last line that it printed."""
        lines = (self.out / f"{self.name}.txt").read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def python_path() -> str:
    """This checkout, before whatever is searched already."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def test_parts(out: Path, device: str) -> list[Part]:
    """The tests, in as many processes as run side by side."""
    pytest = ["-m", "pytest", "-o", "addopts=", "-v", "-rfE", "--durations=5"]
    marked = ["-m", "gpu"] if device == "cuda" else ["-m", "not slow and not gpu"]
    environment = {"DIMO_TEST_DEVICE": device, "HF_HUB_OFFLINE": "1"}
    # Compiling hundreds of tiny networks would take the time of everything else.
    plainly = {**environment, "TORCH_COMPILE_DISABLE": "1"}
    return [
        Part(
            f"tests_{name}",
            [*pytest, *marked, *files],
            TEST_LIMIT,
            out,
            environment if COMPILED in files else plainly,
        )
        for name, files in TESTS.items()
    ]


def benchmark_parts(out: Path, small: bool) -> list[Part]:
    """The benchmarks, each to be alone on the card."""
    parts = []
    for name, (words, limit) in BENCHMARKS.items():
        part = Part(name, [], limit, out)
        sizes = "--tiny" if small else "--gpu"
        part.command = ["-m", "benchmarks", *words, sizes, "--json", str(part.document)]
        parts.append(part)
    return parts


def run_parts(tests: Sequence[Part], benchmarks: Sequence[Part], limit: float) -> None:
    """One benchmark after the other, then tests side by side, until the time is up."""
    deadline = time.monotonic() + limit
    for part in benchmarks:
        if time.monotonic() >= deadline:
            part.ended = "no time left"
            continue
        part.start()
        part.finish(deadline)
        print(f"{part.name}: {part.ended}, {part.seconds:.0f} s", flush=True)
    for part in tests:
        part.start()
    for part in tests:
        part.finish(deadline)
        print(f"{part.name}: {part.ended}, {part.seconds:.0f} s: {part.last_words()}", flush=True)


def rows(tests: Sequence[Part], benchmarks: Sequence[Part]) -> list[tuple[str, str, str, str]]:
    """(what, asked, got, verdict), a line for everything that was asked."""
    found = [
        (part.name, "passes", part.ended, "yes" if part.ended == "ok" else "NO") for part in tests
    ]
    for part in benchmarks:
        for row in part.rows():
            sign = "<=" if row["better"] == "lower" else ">="
            asked = "-" if row["asked"] is None else f"{sign} {row['asked']:g}"
            got = f"{row['got']:.4g} {row['unit']}".strip()
            met = {True: "yes", False: "NO", None: "-"}[row["met"]]
            found.append((row["what"], asked, got, met))
        if part.ended != "ok" or not part.rows():
            found.append((part.name, "passes", part.ended, "NO"))
    return found


def as_table(lines: Sequence[tuple[str, str, str, str]]) -> str:
    """Columns under one another."""
    lines = [("what", "asked", "got", "met"), *lines]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def main(arguments: Sequence[str]) -> int:
    """Run everything; 0 if each part ended well, whether or not it met its bars."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--small", action="store_true", help="rehearse on a CPU, in small shapes")
    parser.add_argument("--limit", type=float, default=WHOLE_LIMIT, help="seconds for all parts")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts alone")
    asked = parser.parse_args(arguments)
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    tests = test_parts(out, "cpu" if asked.small else "cuda")
    benchmarks = benchmark_parts(out, asked.small)
    if asked.only:
        known = {part.name for part in (*tests, *benchmarks)}
        if unknown := set(asked.only) - known:
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {sorted(known)}")
        tests = [part for part in tests if part.name in asked.only]
        benchmarks = [part for part in benchmarks if part.name in asked.only]
    started = time.monotonic()
    run_parts(tests, benchmarks, asked.limit)
    lines = rows(tests, benchmarks)
    summary = {
        "seconds": round(time.monotonic() - started, 1),
        "parts": {
            part.name: {"ended": part.ended, "seconds": round(part.seconds, 1)}
            for part in (*tests, *benchmarks)
        },
        "rows": [dict(zip(("what", "asked", "got", "met"), line, strict=True)) for line in lines],
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(f"\n{as_table(lines)}\n\n{summary['seconds']:.0f} s; details are in {out}")
    return 0 if all(part.ended == "ok" for part in (*tests, *benchmarks)) else 1
