"""Words of a prompt that a teacher has no meaning for: said wherever prompts come in."""

import json
import warnings

import pytest

from dimo_cli import OneStepPipeline, sample
from dimo_cli.errors import SpecError
from dimo_cli.evaluation.subjects import chosen_prompts, open_target, subject_of
from dimo_cli.hub.store import HubStore
from dimo_cli.runs.prompts import attach_prompts, check_prompts
from dimo_cli.sampling.left_out import SHOWN, left_out_note, tell_left_out, words_left_out
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.evaluate import EvalSpec
from dimo_cli.specs.sample import SampleSpec
from dimo_cli.teachers.registry import load_skeleton

PROMPT = "a red fox in the snow"
NOTE = "`emoji` leaves out `red`, `snow`: its images do without."
SOFA = "no drawing of anything in the prompt 'a sofa'"


@pytest.fixture(scope="module")
def emoji():
    return load_skeleton("emoji")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a fox\n" + f"{PROMPT}\n" * 50)
    return path


def spec_with(prompts):
    return DistillSpec.model_validate(
        {"teacher": {"name": "emoji"}, "condition": {"prompts": str(prompts)}}
    )


def succeed(result):
    assert result.exit_code == 0, result.stderr
    return result


def test_teachers_read_all_words_unless_they_say_otherwise():
    assert words_left_out(load_skeleton("shapes"), [PROMPT]) == ()
    assert words_left_out(load_skeleton("digits"), ["3"]) == ()


def test_each_such_word_is_named_once(emoji):
    assert words_left_out(emoji, [PROMPT, "two red foxes"]) == ("red", "snow", "two")


def test_one_note_names_them_and_does_not_grow_without_end(emoji):
    said = []
    assert tell_left_out(emoji, [PROMPT] * 3, said.append) == ("red", "snow")
    assert said == [NOTE]
    assert tell_left_out(emoji, ["a fox"], said.append) == ()
    assert len(said) == 1
    long = left_out_note(emoji, [str(number) for number in range(SHOWN + 1000)])
    assert "`19` and 1,000 more words: its" in long


def test_who_is_strict_is_refused(emoji):
    with pytest.raises(SpecError, match="leaves out `red`, `snow`"):
        tell_left_out(emoji, [PROMPT], print, strict=True)


def test_strict_is_about_prompts():
    with pytest.raises(ValueError, match="applies to prompts"):
        SampleSpec(classes=("3",), strict=True)
    assert SampleSpec(interpolate=("a fox", "a cat"), strict=True)


def test_the_program_says_which_words_it_left_out(dimo, tmp_path):
    words = ("sample", "--prompt", PROMPT, "-n", "1", "--json")
    done = succeed(dimo(*words))
    assert NOTE in done.stderr
    assert json.loads(done.stdout)["left_out"] == ["red", "snow"]
    refused = dimo(*words, "--strict", "--grid", "no.png")
    assert refused.exit_code == 2
    assert "leaves out `red`, `snow`" in refused.stderr
    assert not (tmp_path / "no.png").exists()


def test_so_it_does_of_both_ends_of_an_interpolation(dimo):
    words = ("sample", "--interpolate", "a red fox", "two cats", "--frames", "2", "--json")
    done = succeed(dimo(*words))
    assert "leaves out `red`, `two`" in done.stderr
    assert json.loads(done.stdout)["left_out"] == ["red", "two"]
    assert dimo(*words, "--strict").exit_code == 2


@pytest.mark.parametrize(
    "words",
    [("compare", "emoji", "emoji@teacher:1", "--grid", "no.png"), ("tteo", "emoji", "--out", "no")],
)
def test_who_is_strict_is_refused_by_each_command_that_draws(dimo, tmp_path, words):
    refused = dimo(*words, "--prompt", PROMPT, "--strict")
    assert refused.exit_code == 2
    assert "leaves out `red`, `snow`" in refused.stderr
    assert not list(tmp_path.glob("no*"))


def test_an_end_may_be_a_single_word(dimo):
    done = succeed(dimo("sample", "--interpolate", "apple", "🚀", "--frames", "2", "--json"))
    assert json.loads(done.stdout)["prompts"] == ["apple", "🚀"]


def test_an_end_that_is_random_or_a_file_has_no_words(dimo):
    succeed(dimo("sample", "--prompt", "a fox", "-n", "1", "--grid", "fox.png", "--json"))
    words = ("--interpolate", "fox.png", "random", "--prompt", "a fox", "--frames", "2")
    assert "leaves out" not in succeed(dimo("sample", *words)).stderr


def test_a_comparison_says_it_once_and_each_side_has_them(dimo):
    words = ("emoji", "teacher:1", "--prompt", PROMPT, "-n", "1", "--json")
    done = succeed(dimo("compare", *words))
    assert done.stderr.count(NOTE) == 1
    sides = json.loads(done.stdout)["sides"]
    assert [side["left_out"] for side in sides] == [["red", "snow"]] * 2


def test_an_optimization_says_it_and_refuses_what_cannot_be_drawn_before_it_begins(dimo, tmp_path):
    words = ("tteo", "emoji", "--prompt", PROMPT, "--starts", "1", "--iters", "0", "--json")
    done = succeed(dimo(*words))
    assert NOTE in done.stderr
    assert json.loads(done.stdout)["left_out"] == ["red", "snow"]
    refused = dimo(*words, "--prompt", "a sofa", "--out", "none")
    assert refused.exit_code == 2
    assert SOFA in refused.stderr
    assert not (tmp_path / "none").exists()


def test_python_warns_whoever_calls():
    with pytest.warns(UserWarning, match="leaves out `red`, `snow`") as caught:
        sample(prompts=PROMPT)
    pipeline = OneStepPipeline.from_pretrained("emoji")
    with pytest.warns(UserWarning, match="leaves out `red`, `snow`") as more:
        pipeline(PROMPT)
    assert {warning.filename for warning in (*caught, *more)} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline("a fox")


def test_a_run_says_it_of_its_file_of_prompts(emoji, file):
    said = []
    attach_prompts(emoji, spec_with(file), said.append)
    assert said == check_prompts(emoji, spec_with(file)) == [NOTE]


def test_a_run_is_refused_before_it_draws_a_prompt_that_nobody_can(emoji, file):
    file.write_text("a fox\na sofa\n")
    with pytest.raises(SpecError, match=f"`condition.prompts` is `.*`. .*{SOFA}") as caught:
        attach_prompts(emoji, spec_with(file))
    assert "It knows" in caught.value.hint


def test_an_evaluation_says_it_of_its_prompts(file):
    said = []
    store = HubStore(say=said.append)
    spec = EvalSpec(target="emoji", prompts=str(file), samples=2)
    opened = open_target(spec, store, said.append)
    subject_of(opened, spec, chosen_prompts(spec.prompts, store), store)
    assert NOTE in said
