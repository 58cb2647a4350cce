"""What a run and a preset would need is computed without a terminal, and as JSON would have it."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from dimo_cli.commands.plan import forecast_view
from dimo_cli.errors import SpecError
from dimo_cli.planning import plan as planning
from dimo_cli.planning.downloads import HERE
from dimo_cli.planning.plan import forecast, forwards_per_step, requirements
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.launch import LaunchSpec
from dimo_cli.specs.resolve import resolve_spec


def shown(found):
    """The words of a forecast, however wide the terminal is."""
    console = Console(width=200, file=io.StringIO())
    console.print(forecast_view(found))
    return console.file.getvalue()


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


@pytest.fixture
def card(monkeypatch):
    """A GPU whose memory a test may choose."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)

    def choose(available):
        monkeypatch.setattr(planning, "machine_memory", lambda: ("a card", available))

    return choose


def on_card(*sets, launch=None):
    plan = digits("train.batch_size=64", "train.accumulate=4", *sets)
    return forecast(plan, Path("runs/x"), launch)


def test_passes_are_those_that_a_run_on_this_card_would_choose(card):
    card(80 * 2**30)
    found = on_card()
    assert (found.share.passes, found.share.batch) == (1, 256)
    assert not found.fit.gradient_checkpointing
    assert "1 x 256 samples, nothing recomputed" in shown(found)
    card(found.room.needed.total)
    tight = on_card()
    assert tight.share.passes > 1
    assert tight.share.passes * tight.share.batch == 256
    assert tight.room.needed.total < found.room.needed.total
    assert tight.room.advice is None


def test_passes_that_were_asked_for_or_are_on_a_cpu_are_not_fitted(card):
    card(80 * 2**30)
    given = on_card("train.micro_batch=32", "train.gradient_checkpointing=false")
    assert given.fit is None
    assert given.share.batch == 32
    assert on_card("train.device=cpu").fit is None
    assert on_card(launch=LaunchSpec(processes=2)).fit is None


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


@pytest.mark.usefixtures("unrehearsed")
def test_what_stands_in_the_way_of_a_preset_is_named(room_enough):
    spec = resolve_spec(DistillSpec, preset="halton-tiny", environment={}).spec
    needed = requirements(spec, ask_hub=False)
    assert needed.to_fetch > 0
    assert "disk space" in replace(needed, free=2 * needed.to_fetch - 1).problems
    assert "disk space" not in replace(needed, free=2 * needed.to_fetch).problems
    assert "memory" in replace(needed, advice="Use less.").problems
    lost = [replace(need, state="gone") for need in needed.files]
    assert {need.file.path for need in lost} <= set(replace(needed, files=lost).problems)
    here = [replace(need, state=HERE) for need in needed.files]
    assert replace(needed, files=here).to_fetch == 0


def test_a_plan_says_what_checkpoints_take_on_disk_and_whether_that_is_there():
    found = forecast(digits("monitor.fid_every=0"), Path("runs/x"))
    assert found.checkpoint == pytest.approx(5.9e6, rel=0.03)  # as one of `digits` is
    assert found.checkpoints == 3 * found.checkpoint  # two are kept, and one is written
    assert found.document()["plan"]["checkpoints_bytes"] == found.checkpoints
    assert "too little" not in shown(found)
    full = replace(found, checkpoint=found.free_disk)
    assert "too little. Choose another `--out`" in " ".join(shown(full).split())


def test_a_plan_says_what_snapshots_take_on_disk():
    found = forecast(digits("student.ema.post_hoc.every=100"), Path("runs/x"))
    assert "on disk, for `dimo ema`" in shown(found)
    assert found.document()["plan"]["snapshot_bytes"] == found.snapshots > 0
    assert "dimo ema" not in shown(forecast(digits(), Path("runs/x")))
