"""A dry run tries what a run would do for a moment, and leaves nothing behind."""

import json
from pathlib import Path

import pytest

from dimo_cli.planning.plan import forecast
from dimo_cli.runs import trial
from dimo_cli.runs.supplies import supplies_of
from dimo_cli.runs.trial import at_most, due, hours_of
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.launch import LaunchSpec
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.teachers.registry import load_teacher
from tests.conftest import shorten_trials


def planned(preset, *sets):
    return resolve_spec(DistillSpec, preset=preset, sets=list(sets), environment={})


def test_what_is_due_every_so_often_is_due_after_the_last_step_too():
    assert [due(10, 30), due(10, 31), due(10, 5), due(0, 5)] == [3, 4, 1, 0]


def test_a_large_step_is_tried_with_fewer_samples():
    spec = planned("digits", "train.batch_size=4096", "train.accumulate=4").spec
    tried = at_most(256, spec).train
    assert (tried.batch_size, tried.accumulate) == (256, 1)
    assert at_most(256, planned("digits").spec) == planned("digits").spec


def test_a_dry_run_tells_hours_here_and_on_a_card(dimo, tmp_path):
    done = dimo("distill", "--preset", "digits", "--dry-run", "--json")
    hours = json.loads(done.stdout)["hours"]
    assert hours["training"] > 0
    assert hours["closing_table"] > 0
    assert hours["how"] == "tried for a moment"
    assert list(tmp_path.iterdir()) == [], "a trial leaves nothing behind"


def test_a_refinement_is_tried_with_its_losses(dimo):
    done = dimo("refine", "digits", "--gan", "--dry-run")
    assert "time here" in done.stdout
    assert "tried for a moment" in done.stdout


def test_twice_the_steps_take_twice_the_time(monkeypatch):
    shorten_trials(monkeypatch)
    seconds = iter([0.5, 2.0] * 2)
    monkeypatch.setattr(trial.Steps, "seconds", lambda self, **how: next(seconds, 0.5))
    monkeypatch.setattr(trial.Steps, "__init__", lambda self, *parts: None)
    monkeypatch.setattr(trial, "timed", lambda device, work: 0.0)
    no_table = ("monitor.fid_every=0", "monitor.table_samples=0", "train.log_every=10")
    found = [
        hours_of(forecast(planned("digits", f"train.steps={steps}", *no_table), Path("x")))
        for steps in (100, 200)
    ]
    assert found[0].training == pytest.approx(90 * 0.5 + 10 * 2.0)
    assert found[1].training == pytest.approx(2 * found[0].training)
    assert found[0].table == 0.0


@pytest.mark.usefixtures("unrehearsed")
def test_without_weights_time_is_worked_out_from_matrices(monkeypatch):
    monkeypatch.setattr(trial, "reached", lambda spec, family: 1e12)
    monkeypatch.setattr("dimo_cli.planning.plan.machine_memory", lambda: ("a card", 10**12))
    found = forecast(planned("maskbit"), Path("x"))
    hours = hours_of(found)
    assert hours.training == pytest.approx(found.flops * 50_000 / 1e12)
    assert hours.table is None
    assert hours.on_h100 is not None


def test_drawing_pairs_takes_a_part_of_the_time_until_they_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    shorten_trials(monkeypatch)
    sets = ["objectives=[{kind: redi, pairs: 64, rounds: 1}]", "monitor.table_samples=0"]
    plan = planned("digits", "train.steps=2", "init.mask_ratio=0.3", *sets)
    hours = hours_of(forecast(plan, Path("x")))
    assert 0 < hours.pairs < hours.training
    supplies_of(plan.spec, load_teacher("digits")).pairs(None, 64, None)
    assert hours_of(forecast(plan, Path("x"))).pairs == 0
    assert hours_of(forecast(planned("digits", "train.steps=2"), Path("x"))).pairs is None


def test_several_processes_are_not_tried():
    hours = hours_of(forecast(planned("digits"), Path("x"), LaunchSpec(processes=2)))
    assert hours.training is None
    assert "several processes" in hours.how
