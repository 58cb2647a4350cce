"""What the README says of arenas is of the numbers that are kept."""

import json
from pathlib import Path

import pytest

from benchmarks import arena
from docs.generator.arena_results import kept

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def number(name, method, metric, steps):
    (found,) = (one for one in kept(name).contenders if one.method == method)
    return found.number(metric, steps)


@pytest.mark.parametrize("method", ["dimo", "idlm", "catdrift", "credit", "imdm"])
def test_the_readme_tells_who_is_ahead_where_all_have_one_step_alone(method):
    assert f" {number('digits-by-time', method, 'fid', 1).mean:.2f}" in README


def test_four_steps_are_better_than_one_by_more_than_the_seeds_differ():
    one, four = (number("shapes", "dimo", "geneval", steps) for steps in (1, 4))
    assert one.high < four.low
    one, four = (number("digits", "dimo", "fid", steps) for steps in (1, 4))
    assert four.high < one.low


def test_an_arena_is_kept_as_if_it_lay_where_its_command_says(monkeypatch, tmp_path):
    place = tmp_path / "somewhere"
    place.mkdir()
    run = {"run": f"{place}/runs/dimo/seed-0", "numbers": {}, "seconds": 1.23456789}
    (place / "arena.json").write_text(json.dumps({"results": [run]}, indent=2))
    monkeypatch.setattr(arena, "KEPT", tmp_path)
    monkeypatch.setattr("sys.argv", ["arena", str(place), "digits"])
    arena.main()
    text = (tmp_path / "digits.json").read_text()
    assert text == '{"results":[{"run":"runs/arena-digits/runs/dimo/seed-0","seconds":1.234568}]}\n'
