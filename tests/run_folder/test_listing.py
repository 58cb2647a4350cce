"""Runs are listed by what their folders hold, and deleted only when they are nobody's."""

import json
from pathlib import Path
from unittest.mock import Mock

import pytest
import typer

from dimo_cli.errors import DimoError, DivergedError
from dimo_cli.files.locking import is_locked, locked
from dimo_cli.python.run import Run
from dimo_cli.run_folder.listing import facts_of_run, find_runs
from dimo_cli.run_folder.removing import remove_run
from dimo_cli.specs.resolve import preset_names
from dimo_cli.training.trainer import Trainer
from tests.helpers.runs import copied, distilled


@pytest.fixture
def runs(tmp_path, finished_run, unfinished_run):
    """A folder with a run that ended, one that was killed, and a spec that is no run."""
    folder = tmp_path / "runs"
    copied(finished_run, folder / "a whole run")
    copied(unfinished_run, folder / "deep" / "cut")
    (folder / "mine").mkdir()
    (folder / "mine" / "run.yaml").write_text("preset: digits\n")
    return folder


def test_a_run_says_whether_it_ended_how_far_it_came_and_how_good_it_is(runs):
    whole, cut = map(facts_of_run, find_runs(runs))
    assert (whole.state, whole.step, whole.steps) == ("finished", 6, 6)
    assert (whole.metric, whole.value) == ("fid", 2.0)
    assert (whole.method, whole.teacher) == ("distill", "digits")
    assert whole.bytes > 100_000
    assert whole.seconds_since < 3600
    assert (cut.state, cut.step) == ("interrupted", 6)


def test_a_run_that_a_process_holds_is_running_and_is_not_removed(runs):
    run = runs / "a whole run"
    with locked(run):
        assert facts_of_run(run).state == "running"
        with pytest.raises(DimoError, match="is in use by"):
            remove_run(run)
    assert facts_of_run(run).state == "finished"


def test_a_run_is_held_until_nothing_is_left_of_it(runs, monkeypatch):
    run, held, remove = runs / "a whole run", [], Path.unlink

    def unlink(path, *args, **words):
        held.append((path.name, is_locked(run)))
        remove(path, *args, **words)

    monkeypatch.setattr(Path, "unlink", unlink)
    remove_run(run)
    assert not run.exists()
    assert held[-2:] == [("run.yaml", True), (".lock", True)]
    assert all(is_held for _, is_held in held)


def test_a_run_that_diverged_says_so_until_it_is_continued(tmp_path, monkeypatch):
    def diverge(trainer, resume):
        raise DivergedError("Training diverged: it did.")

    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "run", diverge)
        with pytest.raises(DivergedError):
            distilled(run)
    assert facts_of_run(run).state == "diverged"
    assert json.loads((run / "diverged.json").read_text())["reason"] == "Training diverged: it did."
    distilled(run, resume=True)
    assert facts_of_run(run).state == "finished"


def test_a_number_of_an_earlier_student_is_not_the_runs(runs):
    run = runs / "a whole run"
    summary, manifest = run / "summary.json", run / "student" / "dimo.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"fid_student": 1.5}))
    assert facts_of_run(run).value == Run(run).metrics["fid_student"] == 1.5
    newer = {"weights_sha256": "1" * 64, "training": {"steps": 9}}  # and it was stopped just then
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | newer))
    facts = facts_of_run(run)
    assert (facts.state, facts.step, facts.value) == ("interrupted", 9, 2.0)
    assert Run(run).metrics == {}


def test_damaged_parts_of_a_run_do_not_hide_it(runs):
    run = runs / "a whole run"
    (run / "run.yaml").write_text("{{{")
    (run / "summary.json").write_text("[1")
    (run / "log.jsonl").write_text('{"step": 4}\nnot json\n{"step": "x"}\n')
    facts = facts_of_run(run)
    assert (facts.step, facts.teacher, facts.metric) == (6, None, None)


@pytest.mark.parametrize("what", ["spec alone", "link", "here", "two runs"])
def test_only_a_run_folder_is_removed(runs, what, monkeypatch, tmp_path, finished_run):
    run = runs / "a whole run"
    target, words = {
        "spec alone": (runs / "mine", "holds no run"),
        "link": (tmp_path / "link", "is a link"),
        "here": (run, "folder that you are in"),
        "two runs": (run, "another run in it"),
    }[what]
    (tmp_path / "link").symlink_to(run)
    if what == "here":
        monkeypatch.chdir(run / "student")
    if what == "two runs":
        copied(finished_run, run / "inner")
    with pytest.raises(DimoError, match=words):
        remove_run(target)
    assert (run / "student" / "model.safetensors").is_file()
    assert (runs / "mine" / "run.yaml").is_file()


def test_the_table_has_a_row_for_each_run(dimo, runs):
    shown = dimo("runs", "list")
    assert shown.exit_code == 0, shown.stderr
    rows = shown.stdout.splitlines()
    assert rows[0].split() == ["run", "state", "teacher", "step", "metric", "size", "age"]
    assert "runs/a whole run" in rows[1]
    assert "FID 2.000" in rows[1]
    assert "interrupted" in rows[2]
    document = json.loads(dimo("runs", "list", "runs", "--json").stdout)
    assert [run["state"] for run in document["runs"]] == ["finished", "interrupted"]


def test_a_run_that_is_named_in_two_ways_is_removed_once(dimo, runs):
    done = dimo("runs", "rm", "runs/a whole run", "runs/mine/../a whole run", "--yes")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("Removed 1 run,")


def test_in_a_narrow_terminal_names_are_folded_and_never_cut_short(dimo, runs, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    lines = dimo("runs", "list", "runs").stdout.splitlines()
    assert "runs/deep/cut" in "".join(line.split("  ")[0].strip() for line in lines)
    lines = dimo("presets", "list").stdout.splitlines()
    names = "".join(line[:7].strip() for line in lines)
    assert all(name in names for name in preset_names())


def test_a_question_that_is_interrupted_deletes_nothing(dimo, runs, monkeypatch):
    monkeypatch.setattr("dimo_cli.commands.runs.ask", Mock(side_effect=typer.Abort))
    ended = dimo("runs", "rm", "runs/a whole run")
    assert (ended.exit_code, ended.stderr.strip()) == (130, "Interrupted.")
    assert (runs / "a whole run").is_dir()


def test_an_interrupted_run_is_shown_with_the_command_that_continues_it(dimo, runs):
    shown = dimo("runs", "show", "runs/deep/cut")
    assert "dimo distill --resume runs/deep/cut" in shown.stderr
    document = json.loads(dimo("runs", "show", "runs/deep/cut", "--json").stdout)
    assert "last" in document["checkpoints"]


def test_nothing_is_deleted_where_nobody_can_be_asked(dimo, runs):
    refused = dimo("runs", "rm", "runs/a whole run")
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert (runs / "a whole run").is_dir()
    (runs / "deep/cut/thesis").mkdir()
    (runs / "deep/cut/thesis/one.txt").write_text("mine")
    done = dimo("runs", "rm", "runs/a whole run", "runs/deep/cut", "--yes")
    assert "In `runs/deep/cut`: 1 file not written by dimo" in done.stderr
    assert done.stdout.startswith("Removed 2 runs")
    assert sorted(path.name for path in runs.iterdir()) == ["deep", "mine"]


def test_one_that_may_not_go_keeps_all_of_them(dimo, runs):
    refused = dimo("runs", "rm", "runs/a whole run", "runs/mine", "-y")
    assert refused.exit_code == 3
    assert (runs / "a whole run").is_dir()


def test_a_folder_without_runs_says_what_to_do(dimo):
    assert "dimo distill --preset digits" in dimo("runs", "list").stderr
    assert "dimo runs list" in dimo("runs", "show", "nowhere").stderr
