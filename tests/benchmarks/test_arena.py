"""The arena's page is of the numbers that are kept."""

import json
from pathlib import Path

import pytest

from dimo_cli.runs.intervals import Interval

ROOT = Path(__file__).parents[2]
WORLDS = ("digits", "shapes")
BY_TIME = "digits-by-time"
KEPT = {
    world: json.loads((ROOT / "benchmarks" / "results" / "arena" / f"{world}.json").read_text())
    for world in (*WORLDS, BY_TIME)
}
PAGE = (ROOT / "examples" / "results" / "arena.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
MEASURED = [(world, one) for world in KEPT for one in KEPT[world]["results"] if one["numbers"]]


def part_of(world):
    """What the page has of a world."""
    title = "digits, by time" if world == BY_TIME else world
    return PAGE.partition(f"## On {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(("world", "found"), MEASURED)
def test_every_number_that_is_kept_is_on_the_page(world, found):
    for steps, numbers in found["numbers"].items():
        metric, told = next(iter(numbers.items()))
        assert metric == ("geneval" if world == "shapes" else "fid")
        words = Interval(told["mean"], told["low"], told["high"], told["seeds"]).words
        assert f"| {steps} | {words}" in part_of(world)


@pytest.mark.parametrize("world", WORLDS)
def test_the_grid_of_learning_rates_stands_in_the_page(world):
    count = sum(bool(one["numbers"]) for one in KEPT[world]["results"])
    assert part_of(world).count("| chosen |") == count


@pytest.mark.parametrize("method", ["dimo", "idlm"])
def test_the_readme_tells_the_arena_in_short(method):
    for world, metric in (("digits", "fid"), ("shapes", "geneval")):
        (found,) = (one for one in KEPT[world]["results"] if one["method"] == method)
        assert f"| {found['numbers']['1'][metric]['mean']:.2f} [" in README


@pytest.mark.parametrize("method", ["dimo", "idlm", "catdrift", "credit", "imdm"])
def test_the_readme_tells_who_is_ahead_where_all_have_one_step_alone(method):
    (found,) = (one for one in KEPT[BY_TIME]["results"] if one["method"] == method)
    assert f" {found['numbers']['1']['fid']['mean']:.2f}" in README


def test_four_steps_are_better_than_one_by_more_than_the_seeds_differ():
    (dimo,) = (one["numbers"] for one in KEPT["shapes"]["results"] if one["method"] == "dimo")
    assert dimo["1"]["geneval"]["high"] < dimo["4"]["geneval"]["low"]
    (dimo,) = (one["numbers"] for one in KEPT["digits"]["results"] if one["method"] == "dimo")
    assert dimo["4"]["fid"]["high"] < dimo["1"]["fid"]["low"]
