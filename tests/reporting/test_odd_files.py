"""Files of a run that can be read and say odd things: the page is made all the same."""

import json

import pytest

from dimo_cli.reporting.charts import round_steps
from dimo_cli.reporting.run_view import closing_table
from dimo_cli.run_folder.alarms import Alarms
from dimo_cli.run_folder.log import records_of
from tests.helpers.reports import make_run, page_of, record

RESULT = {"metric": "fid", "value": 1.25, "protocol": {}, "details": {"std": 0.5}}
EVALUATION = {"subject": {"student_sha256": "0", "seed": 3}, "results": [RESULT], "notes": []}


def with_evaluation(folder, **changes):
    """A run with a student, and an evaluation of it; `result` changes its number."""
    result = {**RESULT, **changes.pop("result", {})}
    make_run(folder, steps=2, samples=0)
    (folder / "student").mkdir()
    (folder / "student" / "dimo.json").write_text('{"weights_sha256": "0"}')
    document = {**EVALUATION, "results": [result], **changes}
    (folder / "eval.json").write_text(json.dumps(document))
    return page_of(folder).words


@pytest.mark.parametrize("value", ["wide", None, 10**400])
def test_a_spread_that_is_no_number_is_left_out(tmp_path, value):
    assert "1.2500" in with_evaluation(tmp_path / "run", result={"details": {"std": value}})


@pytest.mark.parametrize(
    "changes",
    [
        {"result": {"details": [1]}},
        {"result": {"value": 10**400}},
        {"notes": None},
        {"notes": 3},
    ],
)
def test_what_no_evaluation_looks_like_is_none(tmp_path, changes):
    assert "No evaluation of these weights" in with_evaluation(tmp_path / "run", **changes)


def test_a_seed_of_any_size_is_shown(tmp_path):
    subject = {"student_sha256": "0", "seed": 10**400}
    assert f"seed {10**400}" in with_evaluation(tmp_path / "run", subject=subject)


@pytest.mark.parametrize(
    "odd", [{"entropy": "low", "top1": "high"}, {"auxiliary_gap": "x"}, {"entropy": [1]}]
)
def test_text_among_the_numbers_of_a_log_tells_nothing(tmp_path, odd):
    records = [record(1), record(2, **odd)]
    folder = make_run(tmp_path / "run", steps=2, samples=0, records=records)
    assert "Curves" in page_of(folder).words
    for line in records_of(folder / "log.jsonl"):
        assert Alarms().see(line) == []


@pytest.mark.parametrize("values", [[1.7e308, -1.7e308], [10**400, 1], [5e-324, 0.0]])
def test_numbers_that_cannot_be_reckoned_with_are_not_finite(tmp_path, values):
    records = [record(step, divergence=value) for step, value in enumerate(values, 1)]
    words = page_of(make_run(tmp_path / "run", steps=2, samples=0, records=records)).words
    assert ("Not finite somewhere in the log: divergence" in words) == (max(values) >= 1)


def test_a_step_too_large_for_an_axis_is_a_line_that_cannot_be_read(tmp_path):
    records = [record(1), {"step": 10**400, "entropy": 1.0}]
    words = page_of(make_run(tmp_path / "run", steps=2, samples=0, records=records)).words
    assert "1 of 2 lines cannot be read" in words


def test_a_span_too_small_to_be_parted_has_one_tick():
    assert round_steps(0.0, 5e-324) == [0.0]


def test_rows_of_a_closing_table_that_say_the_same_are_two():
    row = {"metric": "fid", "value": 2.0, "images": 10, "seconds_per_image": 1.0}
    rows = [{**row, "sampler": {"steps": 1}} for _ in range(2)]
    found = closing_table(rows)["rows"]
    assert [cells[0] for cells in found] == ["teacher, 1 step (best)", "student, 1 step"]
