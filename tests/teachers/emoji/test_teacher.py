"""The teacher `emoji` through the program: it draws what is asked, and says what it left out."""

import json

import numpy as np
import pytest

from dimo_cli import sample
from dimo_cli.teachers.emoji.world import BACKGROUNDS, prompt_for, things
from dimo_cli.teachers.registry import load_teacher

CALL = ("sample", "--preset", "emoji", "--teacher", "--steps", "2", "-n", "2", "--json")


def test_the_teacher_draws_from_plain_english(dimo):
    result = dimo(*CALL, "--prompt", "a small fluent-style rocket on blue, at the left")
    assert result.exit_code == 0, result.stderr
    assert "leaves out" not in result.stderr
    assert json.loads(result.stdout)["images"] == 2


def test_words_that_it_does_not_know_are_told_and_the_rest_is_drawn(dimo):
    result = dimo(*CALL, "--prompt", "a red fox in the snow")
    assert result.exit_code == 0
    assert "`emoji` leaves out `red`, `snow`: its images do without." in result.stderr


def test_who_is_strict_gets_no_picture_of_half_a_prompt(dimo, tmp_path):
    result = dimo(*CALL, "--strict", "--prompt", "a red fox in the snow")
    assert result.exit_code == 2
    assert "leaves out `red`, `snow`" in result.stderr
    assert not (tmp_path / "samples.png").exists()


def test_a_prompt_of_nothing_known_is_refused(dimo):
    result = dimo(*CALL, "--prompt", "a sofa")
    assert result.exit_code == 2
    assert "no drawing of anything" in result.stderr
    assert dimo(*CALL, "--class", "3").exit_code == 2


def test_students_are_trained_on_captions_of_the_world():
    captions = load_teacher("emoji").conditioner.dataset
    assert len(set(captions)) > 0.9 * len(captions) > 1000


@pytest.mark.parametrize(("one", "same"), [("a plane", "an aeroplane"), ("a bee", "a honey bee")])
def test_synonyms_are_read_alike(one, same):
    conditioner = load_teacher("emoji").conditioner
    first, second, other = (
        conditioner.prompts([text]).tensors["text"] for text in (one, same, "a red apple")
    )
    assert (first - second).norm() < 0.5 * (first - other).norm()


@pytest.mark.parametrize("background", list(BACKGROUNDS))
def test_its_student_paints_the_background_that_is_asked_for(background):
    prompts = [f"{prompt_for(thing)} on {background}" for thing in range(0, len(things()), 10)]
    pictures = sample("emoji", prompts=prompts, seed=5)
    corners = np.stack([np.asarray(picture)[0, 16] for picture in pictures]).astype(int)
    wanted = np.asarray(BACKGROUNDS[background])
    assert (abs(corners - wanted).max(1) < 30).mean() >= 0.9
