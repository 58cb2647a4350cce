"""What a run and a preset would need is computed without a terminal, and as JSON would have it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dimo_cli.errors import SpecError
from dimo_cli.planning import plan as planning
from dimo_cli.planning.downloads import HERE
from dimo_cli.planning.plan import forecast, forwards_per_step, requirements
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.launch import LaunchSpec
from dimo_cli.specs.resolve import resolve_spec


def digits(*sets):
    return resolve_spec(DistillSpec, preset="digits", sets=list(sets), environment={})


def test_a_forecast_says_what_each_step_and_the_whole_run_do():
    found = forecast(digits("train.steps=10", "train.batch_size=6"), Path("runs/x"))
    assert found.samples == 60
    assert found.document()["plan"]["samples"] == 60
    assert found.document()["plan"]["run_folder"] == "runs/x"
    assert found.document()["origins"]["train.steps"] == "flag --set train.steps"


def test_a_forecast_is_a_document_of_json():
    document = forecast(digits(), Path("runs/x")).document()
    assert json.loads(json.dumps(document)) == document
    parts = dict(document["memory_bytes"])
    assert parts.pop("total") == sum(parts.values()) > 0


def test_processes_share_the_memory_that_is_there(monkeypatch):
    monkeypatch.setattr(planning, "machine_memory", lambda: ("somewhere", 4000))
    room = forecast(digits(), Path("runs/x"), LaunchSpec(processes=2)).room
    assert room.available == 2000
    assert room.advice is not None


def test_what_the_run_would_refuse_is_refused_ahead():
    with pytest.raises(SpecError, match="control"):
        forecast(digits("init.control=fixed_class_token", "init.control_token=99"), Path("x"))


@pytest.mark.parametrize(
    ("setting", "forwards"),
    [("train.accumulate=1", 1), ("train.accumulate=3", 3)],
)
def test_every_pass_of_a_step_counts(setting, forwards):
    one = forwards_per_step(digits("train.accumulate=1").spec)
    assert forwards_per_step(digits(setting).spec) == forwards * one


def test_what_ships_inside_dimo_needs_no_download():
    needed = requirements(digits().spec)
    assert (needed.files, needed.to_fetch, needed.problems) == ([], 0, [])


def test_what_stands_in_the_way_of_a_preset_is_named():
    spec = resolve_spec(DistillSpec, preset="maskgit", environment={}).spec
    needed = requirements(spec, ask_hub=False)
    assert needed.to_fetch > 0
    assert "disk space" in replace(needed, free=2 * needed.to_fetch - 1).problems
    assert "disk space" not in replace(needed, free=2 * needed.to_fetch).problems
    assert "memory" in replace(needed, advice="Use less.").problems
    lost = [replace(need, state="gone") for need in needed.files]
    assert {need.file.path for need in lost} <= set(replace(needed, files=lost).problems)
    here = [replace(need, state=HERE) for need in needed.files]
    assert replace(needed, files=here).to_fetch == 0
