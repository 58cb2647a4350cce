"""Short runs over the values of a setting: which there are, what came of them, and what is next."""

import json
import shlex
from unittest.mock import patch
from xml.etree import ElementTree

import pytest

from dimo_cli.errors import DivergedError, SpecError
from dimo_cli.runs.watcher import RunWatcher
from dimo_cli.specs.sweep import read_sweep, short_names

RATE = "student.optimizer.learning_rate"
SMALL = ["--set", "train.batch_size=4", "--set", "monitor.preview_images=2"]
SMALL += ["--set", "train.log_every=1"]


def values(tmp_path, over, points=5, **more):
    sweep = read_sweep("digits", [over], points, 10, more.get("sets", []), tmp_path)
    return [trial.values[over.partition("=")[0]] for trial in sweep.trials]


def test_learning_rates_are_spaced_by_factors_and_other_ranges_evenly(tmp_path):
    assert values(tmp_path, f"{RATE}=1e-6..1e-4") == [
        "1e-06",
        "3.16e-06",
        "1e-05",
        "3.16e-05",
        "0.0001",
    ]
    assert values(tmp_path, "init.mask_ratio.value=0.2..0.8", 3) == ["0.2", "0.5", "0.8"]
    assert values(tmp_path, "train.batch_size=16..64", 3) == ["16", "40", "64"]
    assert values(tmp_path, "train.batch_size=4..64", 3) == ["4", "16", "64"]
    assert values(tmp_path, "student.optimizer.schedule=constant,cosine") == ["constant", "cosine"]


def test_every_combination_is_a_run_with_a_folder_of_its_own(tmp_path):
    over = [f"{RATE}=1e-4,1e-3", "auxiliary.optimizer.learning_rate=1e-3,5e-3"]
    sweep = read_sweep("digits", over, 5, 10, [], tmp_path)
    names = [trial.folder.name for trial in sweep.trials]
    assert names[1] == f"{RATE}=1e-4,auxiliary.optimizer.learning_rate=5e-3"
    assert len({*names}) == 4
    spec = sweep.trials[1].plan.spec
    assert (spec.student.optimizer.learning_rate, spec.auxiliary.optimizer.learning_rate) == (
        1e-4,
        5e-3,
    )
    assert (spec.train.steps, spec.monitor.fid_every, spec.monitor.table_samples) == (10, 10, 0)
    assert short_names(["a.b.x", "a.c"]) == {"a.b.x": "x", "a.c": "c"}


def test_values_that_look_alike_have_folders_of_their_own(tmp_path):
    sweep = read_sweep("digits", ["monitor.project=a b,a_b"], 5, 10, [], tmp_path)
    assert len({trial.folder for trial in sweep.trials}) == 2
    assert {trial.folder.parent for trial in sweep.trials} == {tmp_path}


@pytest.mark.parametrize(
    ("over", "sets", "words"),
    [
        ("student.optimizer.rate=1..2", [], "there is no"),
        (RATE, [], "is not understood"),
        (f"{RATE}=1e-4", [], "fewer than two values"),
        (f"{RATE}=1e-4..1e-6", [], "from a lower number to a higher"),
        (f"{RATE}=a..b", [], "not a range of numbers"),
        (f"{RATE}=1e-4,-1", [], r"\(from flag --over"),
        (f"{RATE}=1e-4,1e-3", [f"{RATE}=1e-5"], "by --over and by --set"),
        (f"{RATE}=1e-4,1e-3", ["student={optimizer: {learning_rate: 1e-5}}"], "--over, and by"),
        (f"{RATE}=1e-4,1e-3", ["train.steps=2"], "--steps, and by another"),
        ("train.steps=2,3", [], "--steps, and by another"),
        ("train.seed=0..1000", [], "would be 101 runs"),
    ],
)
def test_a_sweep_that_cannot_be_meant_is_refused(tmp_path, over, sets, words):
    points = 101 if "seed" in over else 5
    with pytest.raises(SpecError, match=words):
        read_sweep("digits", [over], points, 10, sets, tmp_path)


def swept(dimo, fids, *more, over=f"{RATE}=1e-5..1e-3", steps=2):
    """A sweep of digits whose runs measure these numbers; those that are measured."""
    with patch.object(RunWatcher, "measure_metric", side_effect=list(fids)) as measured:
        done = dimo(
            "sweep", "digits", "--over", over, "--points", 3, "--steps", steps, *SMALL, *more
        )
    return done, measured.call_count


def test_a_sweep_has_a_table_a_picture_and_a_best_run_that_goes_on(dimo, tmp_path):
    done, _ = swept(dimo, (3.0, 1.0, float("nan")))
    assert done.exit_code == 0, done.output
    assert "1.000 (best)" in done.stdout
    assert "no number" in done.stdout
    place = tmp_path / "runs" / "sweep-digits"
    assert (place / "learning_rate=0.0001" / "student" / "dimo.json").is_file()
    drawn = (place / "sweep.svg").read_text()
    ElementTree.fromstring(drawn)
    assert "best: 1 at 0.0001" in drawn
    table = json.loads((place / "sweep.json").read_text())
    assert [run["value"] for run in table["runs"]] == [3.0, 1.0, None]
    assert table["best"]["settings"] == {RATE: "0.0001"}
    said = " ".join(done.stderr.split())
    words = shlex.split(table["continue"])
    assert shlex.join(words) in said
    assert words[:3] == ["dimo", "distill", "--resume"]
    shorter = [word.replace("train.steps=1100", "train.steps=3") for word in words[1:]]
    quick = ["--set", "monitor.fid_every=0", "--set", "monitor.table_samples=0"]
    assert dimo(*shorter, *quick).exit_code == 0
    # That run has gone on, and is still what it was in the sweep; nothing is run again.
    again, measured = swept(dimo, (), "--json")
    assert (again.exit_code, measured) == (0, 0), again.output
    assert json.loads(again.stdout) == table


def test_a_sweep_that_was_stopped_runs_what_is_left(dimo):
    with pytest.raises(StopIteration):  # a number too few: it fails in the second run
        raise swept(dimo, (2.0,))[0].exception
    done, measured = swept(dimo, (1.0, 3.0))
    assert (done.exit_code, measured) == (0, 2), done.output


def test_a_run_that_diverges_is_a_result(dimo):
    def diverge(watcher, step, student):
        if watcher.spec.student.optimizer.learning_rate > 1e-4:
            raise DivergedError("Training diverged.")
        return 1.5

    with patch.object(RunWatcher, "measure_metric", diverge):
        done = dimo("sweep", "digits", "--over", f"{RATE}=1e-4,1e-2", "--steps", 2, *SMALL)
    assert done.exit_code == 0, done.output
    assert "no number" in done.stdout


def test_another_sweep_does_not_take_its_folder(dimo):
    swept(dimo, (1.0, 2.0, 3.0))
    done, _ = swept(dimo, (), "--set", "train.seed=3")
    assert done.exit_code == 2
    assert "is of a sweep with other settings" in done.stderr


def test_where_the_rate_has_fallen_the_best_is_run_anew(dimo, tmp_path):
    done, _ = swept(dimo, (1.0, 2.0), over="student.optimizer.schedule=cosine,linear")
    table = json.loads((tmp_path / "runs/sweep-digits/sweep.json").read_text())
    assert table["continue"].startswith("dimo distill --preset digits --set train.batch_size=4")
    assert table["continue"].endswith("student.optimizer.schedule=cosine"), done.output


def test_a_dry_run_names_the_runs(dimo, tmp_path):
    done = dimo("sweep", "digits", "--over", f"{RATE}=1e-5,1e-4", "--dry-run")
    assert "2 runs of 300 steps" in done.stdout
    assert not (tmp_path / "runs").exists()
