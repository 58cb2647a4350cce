"""`dimo compare`: students and teachers below each other, from the same seeds."""

import json

import numpy as np
import pytest
from PIL import Image

from dimo_cli.console.output import out
from dimo_cli.console.panels import Panel, as_text, matrix
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


def test_sides_are_drawn_from_the_same_seeds_into_one_picture(dimo, tmp_path):
    call = ("compare", "digits", "digits", "teacher:2", "--class", "seven", "-n", 4)
    found = dimo(*call, "--grid", "a.png", "--json")
    document = json.loads(found.stdout)
    first, second, teacher = document["sides"]
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert first["label"] == "digits, 1 step"
    assert teacher["label"] == "digits teacher, 2 steps"
    assert teacher["dimo.student"] == "none"
    assert first["classes"] == teacher["classes"] == [7] * 4
    assert first["seeds"] == teacher["seeds"] == [0, 1, 2, 3]
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert Image.open(tmp_path / "a.png").info["dimo.compare"]
    dimo(*call, "--grid", "b.png", "--seed", 1)
    assert not np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), picture)


def part_of(picture, small):
    """Whether a picture has another one in it."""
    views = np.lib.stride_tricks.sliding_window_view(picture[..., 0], small.shape[:2])
    return bool((views[:, ::4] == small[..., 0]).all((-2, -1)).any())


def test_a_column_is_what_its_seed_draws_by_itself(dimo, tmp_path):
    call = ("compare", "digits", "digits@teacher:2", "--class", "seven", "-n", 2, "--seed", 5)
    assert dimo(*call, "--grid", "both.png").exit_code == 0
    both = np.asarray(Image.open(tmp_path / "both.png"))
    for seed in (5, 6):
        for teacher in ((), ("--teacher", "--steps", 2)):
            one = ("sample", "--student", "digits", "--class", "seven", "-n", 1, "--seed", seed)
            assert dimo(*one, *teacher, "--grid", "one.png").exit_code == 0
            alone = np.asarray(Image.open(tmp_path / "one.png"))[4:-4, 4:-4]
            assert part_of(both, alone), (seed, teacher)


def test_each_class_or_prompt_has_the_first_seed_then_the_next(dimo):
    prompts = ("--prompt", "a red circle", "--prompt", "a blue square")
    found = dimo("compare", "shapes", "teacher:1", *prompts, "-n", 4, "--json")
    for side in json.loads(found.stdout)["sides"]:
        assert side["seeds"] == [0, 0, 1, 1]
        assert side["prompts"] == ["a red circle", "a blue square"] * 2


def test_an_animation_shows_the_steps_of_the_teacher_beside_the_one_of_the_student(dimo, tmp_path):
    call = ("compare", "digits", "teacher:3", "--class", "seven", "-n", 5)
    found = json.loads(dimo(*call, "--animate", "steps.gif", "--json").stdout)
    assert found["animation"] == "steps.gif"
    assert found["sides"][1]["seeds"] == [0, 1, 2, 3, 4]
    moving = Image.open(tmp_path / "steps.gif")
    assert moving.n_frames == 4  # from masks alone to the third step
    assert moving.info["loop"] == 0
    assert b"teacher:digits" in moving.info["comment"]
    frames = []
    for index in range(moving.n_frames):
        moving.seek(index)
        frames.append(np.asarray(moving.convert("RGB")).astype(int))
    gray = [int((np.abs(frame - 128).max(-1) <= 1).sum()) for frame in frames]
    assert gray[0] > gray[1] > gray[2] > gray[3]
    assert moving.info["duration"] > 1000  # it rests at its end
    plain = json.loads(dimo(*call, "--json").stdout)
    assert [{**side, "seconds": 0} for side in plain["sides"]] == [
        {**side, "seconds": 0} for side in found["sides"]
    ]


def test_a_gallery_has_a_group_for_each_column_and_the_command(dimo, tmp_path):
    prompt = "a red circle"
    call = ("compare", "shapes", "teacher:1", "--prompt", prompt, "-n", 2)
    assert dimo(*call, "--gallery", "all.html").exit_code == 0
    page = (tmp_path / "all.html").read_text()
    assert page.count("<figure>") == 4
    assert "a red circle, seed 1" in page
    assert "shapes teacher, 1 step" in page
    assert "dimo compare shapes teacher:1" in page


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
        (("digits", "teacher", "--gallery", "x.pdf"), 2, "must end in .html"),
        (("digits", "teacher", "--animate", "x.mp4"), 2, "must end in .gif"),
        (("digits", "shapes", "--animate", "x.gif"), 2, "the steps of a teacher"),
        (("digits", "teacher:2", "--animate", "/dev/null/x.gif", "-n", 1), 3, "Cannot write"),
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
    return [Panel(f"{label} {index}", images) for index in range(count)]


HEADS = [f"seed {index}" for index in range(4)]


def test_panels_of_any_size_fit_into_one_picture_and_no_label_is_cut():
    small, large = panels(1), panels(1, side=32, label="x" * 200)
    picture = matrix([*small, *large], HEADS, 32)
    assert picture.shape[1] > 1000  # as wide as the long label
    assert matrix(panels(3), HEADS, 64).shape[1] == matrix(panels(1), HEADS, 64).shape[1]


def test_each_panel_is_a_row_and_many_columns_go_on_below():
    one, two = matrix(panels(1), HEADS, 64), matrix(panels(2), HEADS, 64)
    assert two.shape[0] - one.shape[0] > 64
    wide = [Panel("x", np.zeros((8, 512, 512, 3), np.uint8))]
    heads = [f"seed {index}" for index in range(8)]
    assert matrix(wide, heads, 64).shape[1] < 4 * 530  # two bands of four
    assert matrix(wide, heads, 64).shape[0] > 2 * 512


def test_a_long_prompt_over_a_column_is_wrapped_not_cut():
    long = "two red circles above a blue square beside a tree " * 2
    heads = [f"{long}\nseed {index}" for index in range(4)]
    assert matrix(panels(1), heads, 64).shape[0] > matrix(panels(1), HEADS, 64).shape[0] + 60


def lines_of(panels, width):
    console = out.data
    console.width = width
    with console.capture() as captured:
        console.print(as_text(panels, width))
    return captured.get().splitlines()


def test_a_terminal_shows_of_each_row_what_fits_into_its_width():
    wide, narrow = lines_of(panels(3), 100), lines_of(panels(3), 30)
    for lines in (wide, narrow):
        assert sum("some label" in line for line in lines) == 3
    assert len(narrow) == len(wide)
    assert max(map(len, narrow)) <= 30
