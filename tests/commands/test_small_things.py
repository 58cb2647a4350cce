"""What people meet on their way: words that are true, and nothing that happens in silence."""

import json
import shutil

import pytest

from dimo_cli.commands.doctor import download_words
from dimo_cli.errors import SpecError, counted
from dimo_cli.pipeline import OneStepPipeline
from dimo_cli.planning.plan import requirements
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.manifest import FORMAT
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.students.folder import BUILTIN


def test_one_thing_is_no_plural():
    assert (counted(1, "image"), counted(5000, "image")) == ("1 image", "5,000 images")


def test_sample_says_where_everything_went_and_what_it_replaced(dimo):
    draw = ("sample", "--class", "3", "-n", "1", "--grid", "out.png")
    first = dimo(*draw).stdout
    assert "1 image in" in first
    assert "in place of" not in first
    second = dimo(*draw, "--out", "single").stdout
    assert "saved to out.png, in place of the file that was there" in second
    assert "each image by itself to single" in second


def test_an_empty_prompt_is_refused(dimo, tmp_path):
    for command in (("sample",), ("tteo", "shapes")):
        told = dimo(*command, "--prompt", " ")
        assert told.exit_code == 2
        assert "empty" in told.stderr
    assert not list(tmp_path.iterdir())


def test_a_pipeline_without_a_prompt_says_that_there_is_none():
    with pytest.raises(SpecError, match="There is no `prompt`"):
        OneStepPipeline.from_pretrained("shapes")()


def test_a_manifest_of_a_newer_dimo_is_not_called_damaged(dimo, tmp_path):
    shutil.copytree(BUILTIN["digits"], tmp_path / "student")
    manifest = tmp_path / "student" / "dimo.json"
    newer = {"format": FORMAT + 1, "new": 1}
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **newer}))
    told = dimo("sample", "--student", "student").stderr
    assert "made by a newer dimo" in told
    assert "upgrade" in told
    manifest.write_text("{")
    broken = dimo("sample", "--student", "student").stderr
    assert "not a valid manifest: Invalid JSON" in broken


@pytest.mark.parametrize("limit", ["fid=nan", "fid=inf", "nan"])
def test_a_gate_needs_a_number(dimo, limit):
    told = dimo("eval", "fid", "digits", "--max", limit)
    assert told.exit_code == 2
    assert f"`--max {limit}` is not of the form NAME=NUMBER" in told.stderr


def test_a_folder_for_images_is_looked_at_before_they_are_drawn(dimo, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("dimo_cli.evaluation.evaluate.open_target", pytest.fail)
    told = dimo("eval", "fid", "digits", "--save-images", "file/images")
    assert told.exit_code == 3
    assert "`--save-images` is `file/images`" in told.stderr


def test_a_folder_that_takes_no_images_is_said_with_the_option_that_named_it(dimo):
    told = dimo("eval", "fid", "digits", "-n", "4", "--save-images", "/proc/images")
    assert told.exit_code == 3
    assert "Cannot write `/proc/images/000000.png`" in told.stderr
    assert "another folder with `--save-images`" in told.stderr


def test_a_preset_is_copied_into_a_folder_that_is_not_there_yet(dimo, tmp_path):
    assert dimo("presets", "cp", "digits", "my specs/mine.yaml").exit_code == 0
    assert (tmp_path / "my specs" / "mine.yaml").is_file()
    told = dimo("presets", "cp", "digits", "/sys/specs/mine.yaml")
    assert told.exit_code == 3
    assert "Cannot write to `/sys/specs`" in told.stderr
    assert ".tmp" not in told.stderr


@pytest.mark.usefixtures("unrehearsed")
def test_doctor_promises_no_download_of_nothing_while_offline(monkeypatch, room_enough):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    needed = requirements(resolve_spec(DistillSpec, preset="halton-tiny", environment={}).spec)
    assert "0 B" not in download_words(needed)
    assert "cannot be had now" in download_words(needed)


def test_a_dry_run_sees_missing_prompts_and_images(dimo):
    for command, words in (
        (("distill", "--preset", "meissonic"), "conditioned on prompts"),
        (("distill", "--preset", "shapes", "--set", "condition.prompts=no.txt"), "no.txt"),
        (("refine", "digits", "--gan", "--set", "gan.data=nowhere"), "nowhere"),
    ):
        told = dimo(*command, "--dry-run")
        assert told.exit_code in (2, 3)
        assert words in told.stderr
        assert told.stdout == ""


def test_a_run_whose_spec_is_empty_is_not_told_of_an_option_that_nobody_gave(dimo, tmp_path):
    (tmp_path / "run.yaml").touch()
    told = dimo("distill", "--resume", ".")
    assert told.exit_code == 2
    assert "--spec" not in told.stderr
    assert "another `--out`" in told.stderr
