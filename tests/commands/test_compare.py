"""`dimo compare`: students and teachers side by side, from the same seed."""

import json

import numpy as np
import pytest
from PIL import Image

from dimo_cli.console.output import out
from dimo_cli.console.panels import Panel, as_text, side_by_side
from dimo_cli.errors import SpecError
from dimo_cli.specs.sides import Side, read_sides


def test_a_side_is_a_student_a_teacher_of_it_or_that_of_the_first():
    texts = ["teacher", "runs/a", "teacher:16", "you/model@main", "you/model@main@teacher:4"]
    assert read_sides(texts) == [
        Side("runs/a", True, None),
        Side("runs/a"),
        Side("runs/a", True, 16),
        Side("you/model@main"),
        Side("you/model@main", True, 4),
    ]


@pytest.mark.parametrize(
    "texts",
    [["a"], [], ["teacher", "teacher:2"], ["a", "a@teacher:0"], ["a", "teacher:x"],
     ["a", "teacher:"], ["a", "teacher:5000"]],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_the_notation(texts):
    with pytest.raises(SpecError) as problem:
        read_sides(texts)
    assert "teacher:16" in problem.value.hint


def test_a_folder_of_the_name_teacher_is_a_target(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher").mkdir()
    assert read_sides(["teacher", "teacher:2"]) == [Side("teacher"), Side("teacher", True, 2)]


def test_sides_are_drawn_from_the_same_seed_into_one_picture(dimo, tmp_path):
    call = ("compare", "digits", "digits", "teacher:2", "--class", "seven", "-n", 4)
    found = dimo(*call, "--grid", "a.png", "--json")
    document = json.loads(found.stdout)
    first, second, teacher = document["sides"]
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert first["label"] == "digits, 1 step"
    assert teacher["label"] == "digits teacher, 2 steps"
    assert teacher["dimo.student"] == "none"
    assert first["classes"] == teacher["classes"] == [7] * 4
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert Image.open(tmp_path / "a.png").info["dimo.compare"]
    alone = dimo("sample", "--class", "seven", "-n", 4, "--columns", 2, "--grid", "one.png")
    assert alone.exit_code == 0
    one = np.asarray(Image.open(tmp_path / "one.png"))
    height, width, _ = one.shape
    assert np.array_equal(picture[-height:, :width], one)  # what `dimo sample` draws
    dimo(*call, "--grid", "b.png", "--seed", 1)
    assert not np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), picture)


def test_a_teacher_of_a_preset_needs_no_student(dimo):
    found = dimo("compare", "digits@teacher:1", "digits@teacher:2", "-n", 2, "--json")
    assert [side["dimo.sampler"]["steps"] for side in json.loads(found.stdout)["sides"]] == [1, 2]


def test_prompts_are_compared_too(dimo):
    prompt = "two red circles above a blue square"
    found = dimo("compare", "shapes", "teacher:1", "--prompt", prompt, "-n", 1, "--json")
    assert found.exit_code == 0, found.stderr
    assert all(side["prompts"] == [prompt] for side in json.loads(found.stdout)["sides"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("digits",), 2, "at least two"),
        (("digits", "nothing"), 3, "does not exist"),
        (("digits", "nothing@teacher:2"), 3, "does not exist"),
        (("digits", "shapes", "--prompt", "a red circle"), 2, "takes classes"),
        (("digits", "teacher", "--class", 12), 2, "0 to 9"),
        (("digits", "teacher", "-n", 0), 2, "`-n` is 0"),
        (("digits", "teacher", "--grid", "x.jpg"), 2, "must end in .png"),
        (("digits", "teacher", "--class", 1, "--prompt", "x"), 2, "exclude each other"),
    ],
)
def test_mistakes_are_sentences(dimo, arguments, code, words):
    result = dimo("compare", *arguments)
    assert result.exit_code == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def panels(count, side=8, label="some label"):
    images = np.full((4, side, side, 3), 200, np.uint8)
    return [Panel(f"{label} {index}", images, 2) for index in range(count)]


def test_panels_of_any_size_fit_into_one_picture_and_no_label_is_cut():
    small, large = panels(1), panels(1, side=32, label="x" * 200)
    picture = side_by_side([*small, *large], 32)
    assert picture.shape[1] > 1000  # as wide as the long label
    assert side_by_side(panels(3), 64).shape[0] == side_by_side(panels(1), 64).shape[0]


def lines_of(panels, width):
    console = out.data
    console.width = width
    with console.capture() as captured:
        console.print(as_text(panels, width))
    return captured.get().splitlines()


def test_panels_stand_beside_each_other_where_the_terminal_is_wide_enough():
    wide, narrow = lines_of(panels(3), 100), lines_of(panels(3), 30)
    assert all(f"some label {index}" in wide[0] for index in range(3))
    assert sum("some label" in line for line in narrow) == 3
    assert len(narrow) > len(wide)
