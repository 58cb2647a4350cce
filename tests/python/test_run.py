"""A run folder as an object."""

import json
import os
import shutil

import pytest
import torch

import dimo_cli
from dimo_cli import OneStepPipeline, Run, list_runs
from dimo_cli.errors import MissingError
from tests.docs.conftest import prepared  # noqa: F401


@pytest.fixture
def finished(finished_run):
    return Run(finished_run)


@pytest.fixture
def unfinished(unfinished_run):
    return Run(unfinished_run)


def test_it_tells_what_the_folder_tells(finished, finished_run):
    assert (finished.folder, finished.state, finished.step) == (finished_run, "finished", 6)
    assert os.fspath(finished) == str(finished_run)
    assert repr(finished) == f"<Run {finished_run}: finished, step 6 of 6>"
    assert finished.spec.train.batch_size == 8
    assert [row["step"] for row in finished.log()] == [1, 2, 3, 4, 5, 6]
    assert finished.facts.teacher == "digits"
    assert finished.metrics == {}
    assert finished.alarms == []


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(MissingError, match="holds no run"):
        Run(tmp_path)
    with pytest.raises(MissingError, match="is no folder"):
        Run(tmp_path / "nothing")


def test_its_student_and_its_checkpoints_are_pipelines(finished):
    assert isinstance(finished.student, OneStepPipeline)
    assert finished.student is finished.student
    assert finished.checkpoints == ["step-2", "step-3", "step-6", "best", "last"]
    best, named = finished.checkpoint(), finished.checkpoint("step-2")
    weights = [pipeline.student.backbone.state_dict() for pipeline in (best, named)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert best.student.short_id != finished.student.student.short_id


def test_an_unfinished_run_has_checkpoints_and_no_student(unfinished):
    assert unfinished.state == "interrupted"
    assert unfinished.checkpoint("last").student.manifest.training.steps == 3
    with pytest.raises(MissingError, match="holds an unfinished run"):
        unfinished.student  # noqa: B018


def test_the_report_goes_where_it_is_told(finished, tmp_path):
    assert finished.report(tmp_path / "page.html") == tmp_path / "page.html"
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_metrics_are_the_numbers_of_the_closing_table(prepared, dimo):  # noqa: F811
    folder = prepared / "runs" / "digits"
    metrics = Run(folder).metrics
    summary = json.loads((folder / "summary.json").read_text())
    assert metrics["fid_student"] == summary["fid_student"]
    assert len(metrics["table"]) == 3
    assert not {"run", "student", "weights_sha256"} & set(metrics)


def test_runs_are_listed_by_name(finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingError, match="There is no folder `runs`"):
        list_runs()
    for name in ("b", "a/c"):
        shutil.copytree(finished_run, tmp_path / "runs" / name)
    assert [run.folder.as_posix() for run in list_runs()] == ["runs/a/c", "runs/b"]


def test_a_run_stands_wherever_a_student_or_a_run_is_named(finished, dimo):
    assert len(dimo_cli.sample(finished, classes=[1, 2])) == 2
    assert OneStepPipeline.from_pretrained(finished).student.manifest.training.steps == 6
    assert Run(finished).folder == finished.folder
    assert dimo("runs", "show", finished.folder).exit_code == 0
