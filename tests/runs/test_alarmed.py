"""A run that collapses says so, and ends as `monitor.stop_on` has it; its table can wait."""

import json

import pytest

from dimo_cli.console.live import PlainView
from dimo_cli.errors import DivergedError
from dimo_cli.evaluation.yardstick import Yardstick
from dimo_cli.runs.distill import distill
from tests.conftest import small_spec

RUINOUS = {"optimizer": {"learning_rate": 1.0, "warmup_steps": 2}}
TABLE = {"table_samples": 100, "teacher_steps": [1, 2], "fid_every": 0, "preview_images": 2}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def test_a_collapse_ends_a_run_with_exit_4_and_a_checkpoint_if_that_is_asked_for(tmp_path):
    spec = small_spec(student=RUINOUS, train={"steps": 200}, monitor={"stop_on": ["collapse"]})
    with pytest.raises(DivergedError, match="collapsed") as stopped:
        distill(spec, tmp_path / "r", PlainView(lambda line: None))
    assert stopped.value.exit_code == 4
    assert "student.optimizer.learning_rate" in stopped.value.hint
    assert "--set 'monitor.stop_on=[]'" in stopped.value.hint
    assert not (tmp_path / "r" / "student").exists()
    step = max(int(path.name[5:]) for path in (tmp_path / "r" / "checkpoints").glob("step-*"))
    assert 0 < step < 200
    assert "Alarm `collapse`" in (tmp_path / "r" / "notes.txt").read_text()


def test_a_collapsed_student_is_never_only_said_to_be_saved(dimo):
    sets = ("student.optimizer.learning_rate=1", "student.optimizer.warmup_steps=0",
            "train.steps=10", "train.batch_size=8", "train.log_every=1", "monitor.fid_every=0",
            "monitor.table_samples=0")  # fmt: skip
    options = [part for value in sets for part in ("--set", value)]
    result = dimo("distill", "--preset", "digits", *options, "-o", "r")
    assert result.exit_code == 0, result.stderr
    _, _, after = result.stdout.partition("Student saved")
    assert "Alarm `collapse`: the student collapsed" in after


def closed(folder, say=lambda line: None):
    distill(small_spec(train={"steps": 1}, monitor=TABLE), folder, PlainView(say))
    return json.loads((folder / "summary.json").read_text())["table"]


def test_the_teachers_rows_are_measured_once_in_a_home_and_timed_each_time(tmp_path, monkeypatch):
    first = closed(tmp_path / "a")
    asked = []
    measure = Yardstick.measure
    monkeypatch.setattr(
        Yardstick, "measure", lambda self, *a, **k: asked.append(1) or measure(self, *a, **k)
    )
    second = closed(tmp_path / "b")
    assert len(asked) == 1, "the student alone"
    assert [row["value"] for row in second] == [row["value"] for row in first]
    assert [row.get("cached", False) for row in second] == [True, True, False]
    assert second[0]["seconds_per_image"] != first[0]["seconds_per_image"]


def test_ctrl_c_in_the_closing_table_says_how_to_have_it_later(tmp_path, monkeypatch):
    said = []

    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Yardstick, "measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            closed(tmp_path / "r", said.append)
    (told,) = [line for line in said if "is saved to" in line]
    assert "`dimo distill --resume " in told
    spec = small_spec(train={"steps": 1}, monitor=TABLE)
    result = distill(spec, tmp_path / "r", PlainView(said.append), resume=True)
    assert len(result.rows) == 3
