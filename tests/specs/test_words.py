"""Mistakes in files and values are told in plain words, at their place."""

import json

import pytest

from dimo_cli.specs.base import Int, Spec


class Loop(Spec):
    steps: Int = 1


def check(dimo, folder, text):
    (folder / "mine.yaml").write_text(text)
    return dimo("spec", "check", "mine.yaml").stderr


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_an_empty_file_is_said_to_be_empty(dimo, tmp_path, text):
    assert "`mine.yaml` is empty" in check(dimo, tmp_path, text)


def test_a_file_without_settings_is_valid(dimo, tmp_path):
    assert "is valid" in check(dimo, tmp_path, "{}\n")


def test_broken_yaml_shows_the_line_with_a_mark_below_the_place(dimo, tmp_path):
    told = check(dimo, tmp_path, "train:\n  steps: [1, 2\ninit: 3\n")
    assert "line 3, column 5." in told
    line, mark = told.splitlines()[1:3]
    assert line.strip() == "init: 3"
    assert line[mark.index("^")] == ":"


@pytest.mark.parametrize("written", ["1e3", "1E3", "1.0e+3", " 1e3 ", 1000.0, "1000"])
def test_a_whole_number_may_have_an_exponent(written):
    assert Loop(steps=written).steps == 1000


def test_steps_may_be_written_as_people_do_everywhere(dimo):
    for steps in (("--steps", "1e3"), ("--set", "train.steps=1e3")):
        planned = dimo("distill", "--preset", "digits", *steps, "--dry-run", "--json")
        assert json.loads(planned.stdout)["plan"]["steps"] == 1000


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.steps=1e-3", "must be a whole number"),
        ("train.steps=some", "must be a whole number"),
        ("train.steps=1.5", "must be a whole number"),
        ("loss.entropy_bonus=much", "must be a number"),
        ("train.dropout=perhaps", "must be true or false"),
        ("monitor.reference=[1]", "must be text"),
    ],
)
def test_what_is_allowed_is_said_in_plain_words(dimo, setting, words):
    told = dimo("distill", "--preset", "digits", "--dry-run", "--set", setting).stderr
    assert words in told
    for jargon in ("integer", "unable to parse", "string", "valid number"):
        assert jargon not in told


def test_an_option_that_is_given_twice_is_refused(dimo):
    told = dimo("distill", "--preset", "digits", "--preset", "shapes", "--dry-run")
    assert told.exit_code == 2
    assert "`--preset` is given 2 times" in told.stderr


def test_an_option_that_may_be_repeated_still_may(dimo):
    assert dimo("sample", "--class", "3", "--class", "5", "-n", "2").exit_code == 0
