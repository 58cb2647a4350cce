"""Words of a prompt that a teacher has no meaning for: said, or refused."""

import json

import pytest

from dimo_cli.errors import SpecError
from dimo_cli.sampling.samplers import chosen_conditions, words_left_out
from dimo_cli.specs.sample import SampleSpec
from dimo_cli.teachers.conditioning import PromptConditioner
from dimo_cli.teachers.shapes import load_teacher

PROMPT = "two red circles"


@pytest.fixture(scope="module")
def shapes():
    return load_teacher()


@pytest.fixture
def deaf_to_red(monkeypatch):
    """A conditioner that reads past a word."""
    read = lambda self, prompt: tuple(word for word in prompt.split() if word == "red")  # noqa: E731
    monkeypatch.setattr(PromptConditioner, "left_out", read)


def test_teachers_read_all_words_unless_they_say_otherwise(shapes):
    assert words_left_out(shapes, [PROMPT]) == ()


def test_each_such_word_is_named_once(shapes, deaf_to_red):
    assert words_left_out(shapes, [PROMPT, "a red square"]) == ("red",)


def test_strict_refuses_them(shapes, deaf_to_red):
    with pytest.raises(SpecError, match="does not know `red`"):
        chosen_conditions(shapes, SampleSpec(prompts=(PROMPT,), strict=True))
    assert chosen_conditions(shapes, SampleSpec(prompts=("a blue square",), strict=True, count=1))


def test_strict_is_about_prompts():
    with pytest.raises(ValueError, match="applies to prompts"):
        SampleSpec(classes=("3",), strict=True)


def test_the_program_says_which_words_it_left_out(dimo, deaf_to_red, tmp_path):
    words = ("sample", "--prompt", PROMPT, "-n", "1", "--grid", str(tmp_path / "a.png"))
    done = dimo(*words)
    assert done.exit_code == 0
    assert "does not know `red`" in done.stderr
    assert json.loads(dimo(*words, "--json").stdout)["left_out"] == ["red"]
    refused = dimo(*words, "--strict")
    assert refused.exit_code != 0
    assert "does not know `red`" in refused.stderr
