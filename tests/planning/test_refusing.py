"""A run that would be killed for want of memory is refused before anything heavy starts."""

import os
import re

import pytest
import torch

from dimo_cli.planning import plan as planning
from dimo_cli.planning.memory import (
    advice_to_fit,
    blank_rewards,
    estimate_memory,
    surely_fits,
    with_train,
)
from dimo_cli.planning.plan import lacking
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.launch import LaunchSpec
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.teachers.registry import load_skeleton

HUGE = ("--batch-size", 100_000)
SHORT = ("--steps", 1, "--set", "monitor.fid_every=0", "--set", "monitor.table_samples=0")
MIB = 2**20


def preset(name, **train):
    return with_train(resolve_spec(DistillSpec, preset=name, environment={}).spec, train)


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(planning, "machine_memory", lambda: ("a small machine", 60 * MIB))


@pytest.mark.parametrize(
    "command",
    [("distill", "--preset", "digits"), ("refine", "digits", "--gan")],
    ids=("distill", "refine"),
)
def test_a_run_without_the_memory_is_refused_and_leaves_no_folder(dimo, tmp_path, command):
    refused = dimo(*command, *HUGE)
    assert refused.exit_code == 3
    assert re.search(r"needs about \d.* GiB of memory, and there are", refused.stderr)
    assert "--set train.micro_batch=" in refused.stderr
    assert "--force" in refused.stderr
    assert not (tmp_path / "runs").exists()


def test_force_starts_it_anyway(dimo, tmp_path, little_memory):
    run = ("distill", "--preset", "digits", "--out", "r", *SHORT)
    assert dimo(*run).exit_code == 3
    started = dimo(*run, "--force")
    assert started.exit_code == 0, started.stderr
    assert (tmp_path / "r" / "student").is_dir()


def test_what_is_advised_fits_and_leaves_the_batch_alone():
    teacher, spec = load_skeleton(preset("digits").teacher), preset("digits", batch_size=4096)
    needed = estimate_memory(teacher, spec)
    advice = advice_to_fit(teacher, spec, needed, 300 * MIB)
    passes = int(re.search(r"train\.micro_batch=(\d+)`", advice)[1])
    assert "batch_size" not in advice
    assert 4096 % passes == 0
    changed = with_train(spec, {"micro_batch": passes})
    assert estimate_memory(teacher, changed).total <= 300 * MIB


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_what_is_not_rehearsed_needs_less_than_was_thought(name):
    for batch in (1, 64):
        spec = preset(name, batch_size=batch)
        teacher = load_skeleton(spec.teacher)
        needed = estimate_memory(teacher, spec, blank_rewards).total
        assert not surely_fits(teacher, spec, needed)


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_the_small_presets_start_without_a_rehearsal(name, monkeypatch):
    monkeypatch.setattr(planning, "room_of_each", pytest.fail)
    monkeypatch.setattr(planning, "machine_memory", lambda: ("a laptop", 8 * 2**30))
    assert lacking(preset(name), LaunchSpec()) is None


def test_on_a_gpu_the_fitting_decides_unless_passes_were_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(planning, "machine_memory", lambda: ("a card", 20 * MIB))
    little = planning.Room(planning.MemoryEstimate(1, 1, 1, 1), "a card", 2, "Use less.")
    monkeypatch.setattr(planning, "room_of_each", lambda *of: little)
    assert lacking(preset("digits"), LaunchSpec()) is None
    asked = preset("digits", micro_batch=64, gradient_checkpointing=False)
    assert lacking(asked, LaunchSpec()) is little


def test_a_process_of_a_job_relies_on_the_one_that_started_it(dimo, monkeypatch, little_memory):
    monkeypatch.setitem(os.environ, "RANK", "0")
    monkeypatch.setattr("dimo_cli.commands.distill.distill_in", lambda *what: None)
    assert dimo("distill", "--preset", "digits").exit_code == 0
