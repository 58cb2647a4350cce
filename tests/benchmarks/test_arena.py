"""What the README says of arenas is of the numbers that are kept."""

import json
from pathlib import Path

import pytest

from benchmarks import arena

ROOT = Path(__file__).parents[2]
WORLDS = ("digits", "shapes")
BY_TIME = "digits-by-time"
KEPT = {
    world: json.loads((ROOT / "benchmarks" / "results" / "arena" / f"{world}.json").read_text())
    for world in (*WORLDS, BY_TIME)
}
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["dimo", "idlm", "catdrift", "credit", "imdm"])
def test_the_readme_tells_who_is_ahead_where_all_have_one_step_alone(method):
    (found,) = (one for one in KEPT[BY_TIME]["results"] if one["method"] == method)
    assert f" {found['numbers']['1']['fid']['mean']:.2f}" in README


def test_four_steps_are_better_than_one_by_more_than_the_seeds_differ():
    (dimo,) = (one["numbers"] for one in KEPT["shapes"]["results"] if one["method"] == "dimo")
    assert dimo["1"]["geneval"]["high"] < dimo["4"]["geneval"]["low"]
    (dimo,) = (one["numbers"] for one in KEPT["digits"]["results"] if one["method"] == "dimo")
    assert dimo["4"]["fid"]["high"] < dimo["1"]["fid"]["low"]


def test_an_arena_is_kept_as_if_it_lay_where_its_command_says(monkeypatch, tmp_path):
    place = tmp_path / "somewhere"
    place.mkdir()
    run = f"{place}/runs/dimo/seed-0"
    (place / "arena.json").write_text(
        json.dumps({"results": [{"run": run, "seconds": 1.23456789}]}, indent=2)
    )
    monkeypatch.setattr(arena, "KEPT", tmp_path)
    monkeypatch.setattr("sys.argv", ["arena", str(place), "digits"])
    arena.main()
    kept = (tmp_path / "digits.json").read_text()
    assert kept == '{"results":[{"run":"runs/arena-digits/runs/dimo/seed-0","seconds":1.234568}]}\n'
