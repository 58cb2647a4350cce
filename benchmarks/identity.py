"""Whether a change leaves every number as it was: trains, samples and measures, and compares bits.

python -m benchmarks.identity [--against CHECKOUT_OR_FILE] [--only NAME ...] [--json FILE]

Run it at the root of a checkout. It prints a hash of all weights and pictures, and every measured
number to the last digit. `--against` names another checkout, which runs the same, or a file that
`--json` has written; the exit code is 1 where anything differs. Numbers are those of this machine
and its versions, so both sides have to come from one machine.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

# Nothing is measured on the way, so that what is left is training.
BARE = [
    part
    for setting in ("fid_every=0", "table_samples=0", "preview_every=1000")
    for part in ("--set", f"monitor.{setting}")
]
CAPTION = "two red circles above a blue square"

COMMANDS: dict[str, list[str]] = {
    "digits": ["distill", "--preset", "digits", "--set", "train.steps=60", *BARE],
    "shapes": ["distill", "--preset", "shapes", "--set", "train.steps=20", *BARE],
    "digits-gan": ["refine", "digits", "--preset", "digits-gan", "--set", "train.steps=10", *BARE],
    "shapes-reward": [
        *("refine", "shapes", "--preset", "shapes-reward", "--set", "train.steps=6", *BARE)
    ],
    "sample-class": ["sample", "--class", "7", "-n", "16", "--seed", "3"],
    "sample-prompt": ["sample", "--prompt", CAPTION, "-n", "4"],
    "sample-teacher": ["sample", "--teacher", "--steps", "8", "--class", "3", "-n", "8"],
    "eval-all": ["eval", "all", "digits", "-n", "500", "--json"],
    "eval-geneval": ["eval", "geneval", "shapes", "--json"],
    "eval-fid": ["eval", "fid", "shapes", "-n", "500", "--json"],
}
OUTPUTS = {
    "distill": ["--out", "{name}"],
    "refine": ["--out", "{name}"],
    "sample": ["--grid", "{name}.png", "--out", "{name}"],
    "eval": ["--no-cache"],
}

Facts = dict[str, str]


def facts_of(checkout: Path, names: Iterable[str]) -> Facts:
    """Everything that must not change, as one checkout makes it."""
    facts: Facts = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            facts |= facts_of_command(checkout, name, Path(folder))
    return facts


def facts_of_command(checkout: Path, name: str, folder: Path) -> Facts:
    """Run one command of `dimo` and read off what it left."""
    command = COMMANDS[name]
    outputs = [part.format(name=name) for part in OUTPUTS[command[0]]]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "dimo_cli", *command, *outputs],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"`dimo {' '.join(command)}` failed in {checkout}:\n{done.stderr}")
    if command[0] == "eval":
        measured = {key: json.loads(done.stdout)[key] for key in ("values", "results")}
        return {f"{name}{path}": repr(value) for path, value in numbers(measured)}
    if command[0] == "sample":
        return {f"{name}.png": sha256(folder / f"{name}.png")}
    weights = Path(name) / "student" / "model.safetensors"
    return {str(weights): sha256(folder / weights)}


def numbers(document: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """All measured numbers of a document, by their place in it; times are not among them."""
    if isinstance(document, Mapping):
        for key, value in document.items():
            if not key.startswith("seconds"):
                yield from numbers(value, f"{path}.{key}")
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from numbers(value, f"{path}[{index}]")
    elif isinstance(document, float):
        yield path, document


def sha256(path: Path) -> str:
    """The hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def differences(ours: Facts, theirs: Facts) -> list[str]:
    """A line for each fact that is not the same, or that one side alone has."""
    return [
        f"{name}: {theirs.get(name, 'not there')} -> {ours.get(name, 'not there')}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]


def main() -> None:
    """Print the facts, and compare them if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.identity", description=__doc__)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT_OR_FILE")
    parser.add_argument("--only", choices=COMMANDS, nargs="+", default=list(COMMANDS))
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    ours = facts_of(Path.cwd(), asked.only)
    for name, value in ours.items():
        print(f"{value:>66}  {name}")
    if asked.json:
        asked.json.write_text(json.dumps(ours, indent=2) + "\n")
    if asked.against is None:
        return
    if asked.against.is_dir():
        theirs = facts_of(asked.against.resolve(), asked.only)
    else:
        theirs = json.loads(asked.against.read_text())
    changed = differences(ours, theirs)
    print("\n".join(changed) or f"All {len(ours)} are bit for bit those of {asked.against}.")
    raise SystemExit(bool(changed))


if __name__ == "__main__":
    main()
