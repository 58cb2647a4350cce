"""The arena's page is of the numbers that are kept."""

import json
from pathlib import Path

import pytest

from dimo_cli.runs.intervals import Interval

ROOT = Path(__file__).parents[2]
KEPT = json.loads((ROOT / "benchmarks" / "results" / "arena" / "digits.json").read_text())
PAGE = (ROOT / "examples" / "results" / "arena.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("found", [one for one in KEPT["results"] if one["numbers"]])
def test_every_number_that_is_kept_is_on_the_page(found):
    for steps, numbers in found["numbers"].items():
        fid = numbers["fid"]
        words = Interval(fid["mean"], fid["low"], fid["high"], fid["seeds"]).words
        assert f"| {steps} | {words}" in PAGE


def test_the_grid_of_learning_rates_stands_in_the_page():
    assert PAGE.count("| chosen |") == sum(bool(one["numbers"]) for one in KEPT["results"])


def test_the_readme_tells_the_arena_in_short():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    fids = {one["method"]: one["numbers"]["1"]["fid"]["mean"] for one in KEPT["results"]}
    assert f"| {fids['dimo']:.2f} [" in readme
    assert f"| {fids['idlm']:.2f} [" in readme
