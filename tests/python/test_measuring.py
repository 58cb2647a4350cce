"""`evaluate` gives the numbers of `dimo eval`, to the last bit."""

import json

import pytest

from dimo_cli import DimoError, Run, evaluate


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Nothing is measured yet."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def by_the_command(dimo, *arguments):
    result = dimo("eval", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("metrics", "arguments", "flags"),
    [
        ("fid", {}, "fid digits -n 100"),
        ("pr", {"seed": 5, "neighbors": 4}, "pr digits -n 100 --seed 5 --k 4"),
        (["fid"], {"teacher": True, "steps": 2}, "fid digits -n 100 --teacher --steps 2"),
        ((), {}, "all digits -n 100"),
    ],
)
def test_the_numbers_are_those_of_the_command(dimo, metrics, arguments, flags):
    found = evaluate("digits", metrics, samples=100, use_cache=False, **arguments)
    told = by_the_command(dimo, *flags.split(), "--no-cache")
    mine = json.loads(json.dumps(found.document()))
    assert mine == {name: told[name] for name in mine}


def test_a_number_is_found_by_its_name_or_how_it_begins():
    found = evaluate("digits", ["fid", "pr"], samples=100)
    assert found["fid"] == found["fid100"] == found.values["fid100"]
    assert 0 <= found["precision"] <= 1
    with pytest.raises(KeyError, match="'kid' was not measured, only fid100, precision"):
        found["kid"]


def test_what_was_measured_is_not_measured_again_unless_asked_for():
    results = [evaluate("digits", "fid", samples=50) for _ in range(2)]
    assert [found.cached for found in results] == [False, True]
    assert results[0].values == results[1].values
    assert not evaluate("digits", "fid", samples=50, use_cache=False).cached


def test_a_run_and_its_checkpoints_are_measured(finished_run):
    last, best = (
        evaluate(Run(finished_run), "fid", samples=50),
        evaluate(f"{finished_run}@best", "fid", samples=50),
    )
    assert last["fid"] != best["fid"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"metrics": "fit"}, "fid, kid, is"),
        ({"metrics": "clip"}, "`clip` compares images with prompts"),
        ({"samples": 1}, "`samples` is 1"),
        ({"maximum": {"fid": 3}}, "There is no argument `maximum`"),
        ({"smaples": 3}, "There is no argument `smaples`"),
    ],
)
def test_mistakes_are_sentences(arguments, told):
    with pytest.raises(DimoError, match=told):
        evaluate("digits", **{"metrics": "fid", **arguments})


def test_progress_is_told_to_a_function():
    lines = []
    evaluate("digits", "fid", samples=50, progress=lines.append)
    assert "measure ..." in lines
