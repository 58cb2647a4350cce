"""The closing table also has the best checkpoint, by as many images as all else in it."""

import json
from unittest.mock import patch

import pytest

from dimo_cli.console.live import PlainView
from dimo_cli.evaluation.yardstick import Yardstick
from dimo_cli.reporting.collect import collect
from dimo_cli.reporting.diagnosis import metric_worsened
from dimo_cli.reporting.run_view import closing_table
from dimo_cli.runs.distill import distill
from dimo_cli.runs.tables import best_sentence, comparison_table
from dimo_cli.runs.watcher import RunWatcher
from tests.conftest import small_spec

TABLE = {"table_samples": 100, "teacher_steps": [1, 2], "fid_every": 2, "preview_images": 2}


def closed(folder, fids, say=lambda line: None, resume=False, **monitor):
    train = {"steps": 6, "batch_size": 4, "checkpoint_every": 3, "log_every": 1}
    spec = small_spec(train=train, monitor=TABLE | monitor)
    with patch.object(RunWatcher, "measure_metric", side_effect=list(fids)):
        return distill(spec, folder, PlainView(say), resume)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        yield


@pytest.fixture(scope="module")
def run(home, tmp_path_factory):
    """A run whose second step was the best by few images."""
    folder = tmp_path_factory.mktemp("runs") / "a run"
    return closed(folder, (1.0, 3.0, 2.0))


def test_the_best_checkpoint_is_measured_at_the_tables_count(run):
    summary = json.loads((run.folder / "summary.json").read_text())
    best = summary["best_checkpoint"]
    assert (best["step"], best["images"], best["metric"]) == (2, 100, "fid100")
    assert [row["sampler"]["steps"] for row in summary["table"]] == [1, 2, 1]
    assert best["sampler"]["network"] != summary["table"][-1]["sampler"]["network"]
    assert best["value"] != summary["table"][-1]["value"]


def test_it_is_one_more_row_above_the_student(run):
    summary = json.loads((run.folder / "summary.json").read_text())
    rows = closing_table(summary["table"], summary["best_checkpoint"])["rows"]
    names = [row[0].removesuffix(" (best)") for row in rows]
    best = "student at step 2, the best on the way"
    assert names == ["teacher, 1 step", "teacher, 2 steps", best, "student, 1 step"]
    assert comparison_table(run.rows, run.best).row_count == 4
    assert comparison_table(run.rows).row_count == 3
    assert best in (run.folder / "report.html").read_text()


def test_a_run_whose_last_checkpoint_is_the_best_has_no_further_row(home, tmp_path):
    result = closed(tmp_path / "r", (3.0, 2.0, 1.0))
    assert result.best is None
    assert "best_checkpoint" not in json.loads((tmp_path / "r" / "summary.json").read_text())


def test_the_row_is_known_when_the_table_is_measured_again(run, home, tmp_path, monkeypatch):
    import shutil

    folder = shutil.copytree(run.folder, tmp_path / "again")
    shutil.rmtree(folder / "student")
    asked, measure = [], Yardstick.measure
    monkeypatch.setattr(
        Yardstick, "measure", lambda self, *a, **k: asked.append(1) or measure(self, *a, **k)
    )
    again = closed(folder, (), resume=True)
    assert len(asked) == 1, "the student alone"
    assert again.best.measured.cached
    assert again.best.measured.value == run.best.measured.value


def test_a_damaged_best_checkpoint_does_not_fail_the_run(run, home, tmp_path):
    import shutil

    folder, said = shutil.copytree(run.folder, tmp_path / "damaged"), []
    shutil.rmtree(folder / "student")
    path = folder / "checkpoints" / "step-2" / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    result = closed(folder, (), said.append, resume=True)
    assert result.best is None
    assert len(result.rows) == 3
    assert any("The best checkpoint is not measured again" in line for line in said)


def with_values(record, last, best):
    row = {"metric": "fid5k", "images": 5000, "value": last}
    record.rows, record.best = [row], row | {"value": best, "step": 2}
    return metric_worsened(record)


def test_the_warning_compares_numbers_of_equally_many_images(run):
    record = collect(run.folder)
    told = with_values(record, 3.0, 1.5)
    assert "FID is 3, but it was 1.5 at step 2, of 5,000 images each" in told
    assert "@best" in told
    assert with_values(record, 1.6, 1.5) is None  # few images had it the other way: chance
    assert with_values(record, 1.5, 3.0) is None


def test_a_better_checkpoint_is_named_when_a_run_ends(run):
    from dataclasses import replace

    student = replace(run.rows[-1], value=3.0)
    better = replace(run.best, measured=replace(run.best.measured, value=1.5))
    told = best_sentence(student, better, run.folder)
    assert "FID 1.500 beside 3.000, of 100 images each" in told
    assert best_sentence(student, replace(better, measured=student), run.folder) is None
