"""The examples run: here in miniature, in full when somebody wants their numbers."""

import io
import json
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file

from dimo_cli.teachers.emoji import CAPTIONS, CAPTIONS_SEED, random_caption
from dimo_cli.teachers.emoji.real import training_tokens
from dimo_cli.teachers.emoji.world import SIZES, things
from dimo_cli.teachers.small import Captions

EXAMPLES = Path(__file__).parents[2] / "examples"
SHIPPED = EXAMPLES.parent / "dimo_cli" / "teachers" / "builtin"


def run(name, *arguments):
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def run_here(name, *arguments):
    """What a script prints that leaves the process as it is, so that torch is not imported anew."""
    said = io.StringIO()
    with patch.object(sys, "argv", [name, *arguments]), redirect_stdout(said):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return said.getvalue()


def assert_the_same_tensors(folder, names):
    for name in names:
        mine, theirs = (load_file(f / f"{name}.safetensors") for f in (folder, SHIPPED))
        assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.slow
def test_the_ablations_write_a_table_and_do_not_run_twice_what_is_done(tmp_path):
    arguments = ["--steps", "2", "--samples", "100", "--seeds", "0", "--only", "embedding"]
    table = run("ablations_digits.py", "--out", str(tmp_path / "a.md"), *arguments)
    assert "| embedding noise | 0.1 |" in table
    assert "| sampling temperature | 3.0 |" in table
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("student/dimo.json")}
    assert len(finished) == 2
    assert run("ablations_digits.py", "--out", str(tmp_path / "a.md"), *arguments) == table
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())


def test_the_training_script_writes_every_file_that_ships(tmp_path):
    pytest.importorskip("sklearn")
    run_here("train_digits.py", "--out", str(tmp_path), "--steps", "20")
    names = ("digits", "digits_features", "digits_reference", "digits_data")
    assert_the_same_tensors(tmp_path, names)


@pytest.mark.slow
def test_the_scripts_of_shapes_write_every_network_that_ships(tmp_path):
    """In steps too few to learn anything; for the judge the teacher of the package draws."""
    where = ("--out", str(tmp_path), "--pictures", "100")
    steps = ("--tokenizer-steps", "8", "--text-steps", "2", "--steps", "2")
    run("train_shapes.py", *where, *steps)
    steps = ("--drawn", "20", "--climbed", "4", "--clip-steps", "1", "--judge-steps", "1")
    steps += ("--harden-steps", "1")
    run("train_shapes_rewards.py", "--teacher", str(SHIPPED), *where, *steps)
    names = ("backbone", "text", "tokenizer", "clip", "preference")
    assert_the_same_tensors(tmp_path, [f"shapes_{name}" for name in names])


@pytest.mark.slow
def test_the_scripts_of_emoji_write_every_network_that_ships(tmp_path):
    """In steps too few to learn anything, of drawings that are noise."""
    count = len(things()) + 3
    drawn = {
        size: torch.randint(256, (count, 2, side, side, 4), dtype=torch.uint8)
        for size, side in SIZES.items()
    }
    save_file(drawn, tmp_path / "drawings.safetensors")
    steps = ("tokenizer", "text", "polish")
    arguments = [part for name in steps for part in (f"--{name}-steps", "13")]
    run("train_emoji.py", "--out", str(tmp_path), "--steps", "2", "--clean-steps", "1", *arguments)
    few = ("--steps", "2", "--painted", "8", "--captions", "4")
    judges = ("--teacher", str(tmp_path), "--out", str(tmp_path), *few)
    run("train_emoji_judges.py", *judges)
    names = ("backbone", "text", "tokenizer", "features", "reference", "data", "clip", "preference")
    assert_the_same_tensors(tmp_path, [f"emoji_{name}" for name in names])


def test_pictures_of_emoji_that_a_gan_trains_on_are_not_those_that_fid_compares_with():
    real = runpy.run_path(str(EXAMPLES / "emoji_real_pictures.py"))
    compared = [look for look, _ in real["looks_with_captions"](5000, real["CAPTIONS_SEED"])]
    others = real["others_with_captions"]()
    assert not {look for look, _ in others} & set(compared)
    assert [caption for _, caption in others] == training_tokens()[1]


def test_the_captions_that_students_of_emoji_are_measured_on_are_those_of_the_compared_pictures():
    real = runpy.run_path(str(EXAMPLES / "emoji_real_pictures.py"))
    captions = [caption for _, caption in real["looks_with_captions"](50, real["CAPTIONS_SEED"])]
    dataset = Captions(CAPTIONS, CAPTIONS_SEED, random_caption)
    assert dataset[:50] == captions


def test_the_picture_of_the_readme_can_be_drawn_again(tmp_path):
    drawing = runpy.run_path(str(EXAMPLES / "draw_readme_pictures.py"))
    drawing["draw_digits"](tmp_path / "digits.png")
    assert (tmp_path / "digits.png").read_bytes()[:4] == b"\x89PNG"


def test_a_new_family_is_distilled_into_a_student_that_draws_its_stripes(tmp_path):
    assert len((EXAMPLES / "add_a_teacher.py").read_text().splitlines()) < 80
    said = run("add_a_teacher.py", str(tmp_path / "stripes"))
    assert "One-step student" in said
    assert (tmp_path / "stripes" / "student" / "preview.png").is_file()
    weights = load_file(tmp_path / "stripes" / "student" / "model.safetensors")
    assert not torch.equal(weights["sharpness"], torch.eye(2)), "nothing was trained"


def test_a_reward_of_ones_own_is_trained_for_on_dimos_own_command_line(tmp_path):
    assert len((EXAMPLES / "add_a_reward.py").read_text().splitlines()) < 80
    short = ["train.steps=2", "train.batch_size=4", "reward.watch_images=4"]
    sets = [word for setting in short for word in ("--set", setting)]
    arguments = ["refine", "shapes", "--reward", "warmth=1", *sets]
    run("add_a_reward.py", *arguments, "--out", str(tmp_path / "warm"))
    log = (tmp_path / "warm" / "log.jsonl").read_text()
    assert json.loads(log.splitlines()[-1])["reward_warmth"] != 0


def test_an_objective_of_ones_own_is_trained_for_on_dimos_own_command_line(tmp_path):
    assert len((EXAMPLES / "add_an_objective.py").read_text().splitlines()) < 80
    short = [
        "train.steps=2",
        "train.batch_size=4",
        "monitor.table_samples=0",
        "monitor.fid_every=0",
    ]
    sets = [word for setting in short for word in ("--set", setting)]
    own = ["--set", "objectives=[{kind: clipped, most: 2.0}]"]
    run(
        "add_an_objective.py",
        "distill",
        "--preset",
        "digits",
        *sets,
        *own,
        "--out",
        str(tmp_path / "own"),
    )
    log = (tmp_path / "own" / "log.jsonl").read_text()
    assert "divergence" in json.loads(log.splitlines()[-1])
    assert "kind: clipped" in (tmp_path / "own" / "run.yaml").read_text()


@pytest.mark.slow
def test_the_runs_of_healthy_curves_leave_logs_and_samples(tmp_path):
    arguments = [str(tmp_path / "runs"), "--steps", "2", "--out", str(tmp_path)]
    run("healthy_runs.py", *arguments)
    known = json.loads((tmp_path / "generator" / "logs" / "runs.json").read_text())
    assert len(known) == len(list((tmp_path / "generator" / "logs").glob("*.jsonl"))) == 5
    assert (tmp_path / "pictures" / "healthy-samples.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_students_of_shapes_are_compared_by_backgrounds_and_by_what_nobody_asked_for():
    told = run("choose_shapes_student.py", "shapes", "--captions", "12").splitlines()
    found = json.loads(told[0].removeprefix("shapes "))
    assert {"clean", "true", "nothing more", "gray if asked", "black if asked"} <= found.keys()
    assert found["clean"] <= min(found["true"], found["nothing more"])
    assert told[-1] == "best: shapes"


def test_the_readmes_pictures_are_drawn_from_a_run(tmp_path, finished_run):
    drawing = runpy.run_path(str(EXAMPLES / "draw_readme_pictures.py"))
    drawing["draw_panel"](finished_run, tmp_path / "panel.svg")
    assert "what the words mean" in (tmp_path / "panel.svg").read_text().replace("&#160;", " ")
    for world in ("emoji", "shapes"):
        drawing["draw_text_world"](world, tmp_path / f"{world}.png", {"after it": Path("emoji")})
        assert (tmp_path / f"{world}.png").stat().st_size > 10_000
