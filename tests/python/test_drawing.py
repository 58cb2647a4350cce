"""`sample` draws in memory what `dimo sample` writes into files."""

import numpy as np
import pytest
from PIL import Image

from dimo_cli import DimoError, OneStepPipeline, sample
from dimo_cli.errors import MissingError
from dimo_cli.python.options import EvalOptions, SamplerOptions
from dimo_cli.specs.evaluate import EvalSpec
from dimo_cli.specs.sample import SamplerSpec


def arrays(images):
    return np.stack([np.asarray(image) for image in images])


def drawn_by_the_command(dimo, folder, *arguments):
    result = dimo("sample", *arguments, "--out", "each", "--pixels", 1)
    assert result.exit_code == 0, result.stderr
    return arrays(Image.open(path) for path in sorted((folder / "each").iterdir()))


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ({"classes": [7, "two"], "count": 5, "seed": 3}, "--class 7 --class two -n 5 --seed 3"),
        (
            {"classes": 3, "temperature": 2.0, "top_k": 4},
            "-n 1 --class 3 --temperature 2 --top-k 4",
        ),
        ({"seed": 1}, "--seed 1"),
        (
            {"student": "digits", "classes": 4, "teacher": True, "steps": 2, "guidance": 1.5},
            "-n 1 --student digits --class 4 --teacher --steps 2 --guidance 1.5",
        ),
        ({"prompts": ("a red circle", "two blue squares")}, ""),
    ],
)
def test_the_same_arguments_give_the_same_pixels(dimo, tmp_path, arguments, flags):
    words = flags.split()
    for prompt in arguments.get("prompts", ()):
        words += ["--prompt", prompt]
    words += ["-n", len(arguments["prompts"])] if "prompts" in arguments else []
    assert np.array_equal(arrays(sample(**arguments)), drawn_by_the_command(dimo, tmp_path, *words))


def test_a_picture_may_begin_the_sequence(dimo, tmp_path):
    sample(classes=7)[0].save("seven.png")
    expected = drawn_by_the_command(dimo, tmp_path, "--class", 3, "-n", 1, "--init", "seven.png")
    assert np.array_equal(arrays(sample(classes=3, init=tmp_path / "seven.png")), expected)


@pytest.mark.parametrize("asks", [sample, OneStepPipeline.from_pretrained])
def test_weights_may_lie_below_the_home_folder(asks, tmp_path, monkeypatch):
    found = []

    def load(name, options, *more):
        found.append(options.local_dir)
        raise MissingError("enough")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("dimo_cli.python.drawing.load_target", load)
    monkeypatch.setattr("dimo_cli.pipeline.open_student", load)
    with pytest.raises(MissingError, match="enough"):
        asks("digits", local_dir="~/weights")
    assert found == [str(tmp_path / "weights")]


def test_a_checkpoint_of_a_run_draws(unfinished_run):
    assert sample(f"{unfinished_run}@step-3", classes="seven")[0].size == (8, 8)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"student": "digits", "prompts": "a circle"}, "takes classes, not prompts"),
        ({"classes": 12}, "classes go from 0 to 9"),
        ({"classes": 1, "count": 0}, "`count` is 0"),
        ({"classes": 1, "temprature": 2}, "There is no argument `temprature`"),
        ({"classes": 1, "seed": -1}, "`seed` is -1"),
        ({"classes": 1, "steps": 4}, "trained to draw in 1 step, not in 4"),
        ({"classes": {1, 2}}, "`classes` is a set"),
        ({"student": "nothing", "classes": 1}, "`nothing` does not exist"),
        ({"student": 3, "classes": 1}, "`student` is a int"),
    ],
)
def test_mistakes_are_sentences(arguments, told):
    with pytest.raises(DimoError, match=told):
        sample(**arguments)


def test_a_pipeline_is_told_to_draw_by_itself():
    with pytest.raises(DimoError, match="`student` is a OneStepPipeline") as caught:
        sample(OneStepPipeline.from_pretrained("digits"))
    assert "call it" in caught.value.hint


def test_progress_is_told_to_a_function():
    lines = []
    sample(classes=1, progress=lines.append)
    assert lines == ["sample ..."]


def test_the_keywords_that_editors_know_are_those_of_the_specs():
    assert set(SamplerOptions.__annotations__) == set(SamplerSpec.model_fields)
    elsewhere = {"target", "metrics", "sampler", "maximum", "minimum", "temperatures"}
    own = set(EvalOptions.__annotations__) - set(SamplerOptions.__annotations__)
    assert own == set(EvalSpec.model_fields) - elsewhere
