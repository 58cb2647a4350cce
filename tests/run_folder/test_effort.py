"""What a run took, on whatever clock."""

import json
from datetime import UTC, date, datetime

import pytest

from dimo_cli.planning.health import check_bf16
from dimo_cli.run_folder.effort import effort_of, rate, recorded_effort
from tests.training.test_trainer import train


def test_a_rate_over_no_time_is_none():
    assert rate(12, 3.0) == 4
    assert rate(12, 0.0) == rate(12, -1.0) == 0


def test_a_run_knows_the_day_on_which_it_ended(tmp_path):
    before = datetime.now(UTC).date()
    with recorded_effort(tmp_path, "a card", lambda: (0, 5)):
        pass
    assert before <= date.fromisoformat(effort_of(tmp_path).ended) <= datetime.now(UTC).date()


@pytest.fixture
def still_clock(monkeypatch):
    """A clock that stands still, as that of a virtual machine may for a while."""
    monkeypatch.setattr("time.perf_counter", lambda: 1.0)
    monkeypatch.setattr("time.monotonic", lambda: 1.0)


def test_a_run_needs_no_clock_that_goes(tmp_path, still_clock):
    train(tmp_path, train={"steps": 2})
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["images_per_second"] for record in records] == [0.0, 0.0]


def test_the_doctor_needs_none_either(still_clock):
    assert check_bf16().state == "note"


def test_optimizing_an_input_needs_none_either(dimo, tmp_path, still_clock):
    call = ("tteo", "shapes", "--prompt", "a red circle", "--budget", "bon8", "--out", "t")
    result = dimo(*call, "--json")
    assert result.exit_code == 0, result.stderr
