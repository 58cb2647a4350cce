"""Alarms: a run that goes wrong says so at once, and healthy runs say nothing."""

import json
from pathlib import Path

import pytest

from dimo_cli.run_folder.alarms import Alarms

LOGS = Path(__file__).parents[2] / "docs" / "generator" / "logs"


def first_alarms(name):
    """The step at which each alarm of a real run went off first."""
    alarms, found = Alarms(), {}
    for line in (LOGS / f"{name}.jsonl").read_text().splitlines():
        record = json.loads(line)
        for alarm in alarms.see(record):
            found.setdefault(alarm, record["step"])
    return found


@pytest.mark.parametrize("name", ["healthy", "masks"])
def test_a_healthy_run_sets_off_no_alarm(name):
    assert first_alarms(name) == {}


def test_a_collapse_is_seen_by_the_second_line_that_shows_it():
    assert first_alarms("collapse")["collapse"] == 30


def test_an_auxiliary_that_stays_with_the_teacher_is_seen():
    assert first_alarms("auxiliary") == {"auxiliary": 200}


def test_an_auxiliary_whose_gap_rises_is_seen_and_no_refinement_is_near_its_teacher_by_mistake():
    alarms = Alarms(from_teacher=False)
    numbers = {"entropy": 1.0, "top1": 0.5, "divergence": 0.01}
    for step in range(1, 30):
        alarms.see({"step": step, "auxiliary_gap": 0.5, **numbers})
    assert alarms.active == {}
    for step in range(30, 60):
        alarms.see({"step": step, "auxiliary_gap": 2.0, **numbers})
    assert "cannot keep up" in alarms.active["auxiliary"]
