"""A mistyped word on the command line is guessed, and told the way every other mistake is."""

import json

import pytest

from dimo_cli.teachers.classes import find_class
from dimo_cli.teachers.imagenet import class_ids, class_names

GUESSES = [
    (("distil", "--preset", "digits"), "Did you mean `dimo distill`?"),
    (("presets", "shw", "digits"), "Did you mean `dimo presets show`?"),
    (("eval", "ref", "bild"), "Did you mean `dimo eval ref build`?"),
    (("eval", "fdi", "digits"), "Did you mean `dimo eval fid`?"),
    (("fid", "digits"), "Did you mean `dimo eval fid`?"),
    (("distill", "--prest", "digits"), "Did you mean `--preset`?"),
    (("distill", "--gan"), "It is an option of `dimo refine`."),
    (("distill", "--preset", "maskgti"), "Did you mean `maskgit`?"),
    (("refine", "digits", "--preset", "digits-gann"), "Did you mean `digits-gan`?"),
    (("distill", "--preset", "shapes-reward"), "dimo refine STUDENT --preset shapes-reward"),
    (("distill", "--preset", "digits", "--set", "train.stps=3"), "Did you mean `train.steps`?"),
    (("sample", "--class", "sevn"), "Did you mean `seven`?"),
    (("sample", "--student", "shaps"), "Did you mean `shapes`?"),
    (("sample", "--student", "maskgit"), "dimo distill --preset maskgit"),
    (("eval", "fid", "maskgti", "--teacher"), "Did you mean the preset `maskgit`?"),
    (("tteo", "shapes", "--prompt", "x", "--reward", "shape_clip"), "Did you mean `shapes_clip`?"),
    (("tteo", "shapes", "--prompt", "x", "--decode", "sofft"), "Did you mean `soft`?"),
    (("refine", "shapes", "--gan", "--set", "reward.held_out=clpi"), "Did you mean `clip`?"),
    (("refine", "shapes", "--gan", "--set", "reward.terms.clpi=1"), "Did you mean `clip`?"),
    (("eval", "fid", "digits", "--max", "fdi=2"), "Did you mean `fid`?"),
    (("eval", "fid", "digits", "--features", "incption"), "Did you mean `inception`?"),
    (("sample", "--teacher", "--sampler", "haltn"), "Did you mean `halton`?"),
]


@pytest.mark.parametrize(("arguments", "words"), GUESSES, ids=lambda part: " ".join(part))
def test_what_was_meant_is_said(dimo, arguments, words):
    result = dimo(*arguments)
    assert result.exit_code in (2, 3)
    assert words in result.stderr
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr


def test_a_run_nearby_is_what_was_meant(dimo, tmp_path):
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    (tmp_path / "runs" / "digits" / "run.yaml").touch()
    result = dimo("sample", "--student", "./runs/digts")
    assert result.exit_code == 3
    assert "Did you mean `runs/digits`?" in result.stderr


def test_mistakes_in_arguments_draw_no_boxes_and_are_documents_for_machines(dimo):
    for arguments in (("distil",), ("distill", "--prest", "x"), ("eval", "fid"), ("sample", "x")):
        told = dimo(*arguments, "--json")
        assert told.exit_code == 2
        assert "╭" not in told.stderr
        assert json.loads(told.stdout)["exit_code"] == 2
        assert json.loads(told.stdout)["error"] in told.stderr


def test_no_arguments_show_the_help_page(dimo):
    for arguments in ((), ("eval",), ("presets",)):
        result = dimo(*arguments)
        assert result.exit_code == 2
        assert "Usage" in result.output
        assert "Error" not in result.output


def test_class_names_may_be_one_word_and_mistyped_ones_are_guessed():
    class Named:
        class_names, class_ids = class_names(), class_ids()

    assert find_class("golden_retriever", Named) == find_class("Golden Retriever", Named) == 207
    with pytest.raises(Exception, match="golden_retreiver") as caught:
        find_class("golden_retreiver", Named)
    assert caught.value.hint.startswith("Did you mean `golden retriever`?")
