"""The rate that an optimizer takes a step with, as its schedule has it."""

import contextlib

import pytest
import torch

from dimo_cli.engine.capture import CapturedStep
from dimo_cli.engine.distill import Distillation
from dimo_cli.errors import SpecError
from dimo_cli.specs.checkpoint import fixed_settings
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.training.trainer import Trainer
from tests.conftest import Silent, small_spec
from tests.helpers.runs import distilled

LINE = {"kind": "linear", "floor": 0.1}
RATES = {"learning_rate": 1e-3, "warmup_steps": 2, "schedule": LINE}


def scheduled(steps=12, **groups):
    """A run whose student's rate falls until it ends; the auxiliary's stays."""
    return small_spec(
        student={"optimizer": RATES, "ema": {"decay": 0.9}},
        train={"steps": steps, "batch_size": 4, "checkpoint_every": 2, "log_every": 100},
        **groups,
    )


def rates(optimizer, steps):
    found = []
    for step in range(steps):
        optimizer.set_rate(step)
        found.append(float(optimizer.optimizer.param_groups[0]["lr"]))
    return found


def test_each_optimizer_follows_its_own_schedule_by_number_and_by_tensor(teacher):
    run = Distillation(
        teacher, scheduled(), torch.Generator().manual_seed(0), contextlib.nullcontext
    )
    falling = [0, 5e-4, *(1e-3 * (1 - 0.09 * past) for past in range(10))]
    assert rates(run.student_optimizer, 12) == pytest.approx(falling)
    assert rates(run.auxiliary_optimizer, 12)[2:] == [2e-3] * 10
    captured = CapturedStep(run, pytest.fail)  # reads its rates from tensors
    assert run.student_optimizer.has_rate_tensor
    assert rates(run.student_optimizer, 12) == pytest.approx(falling)
    captured.step(7)
    used = run.student_optimizer.optimizer.param_groups[0]["lr"]
    assert used.item() == pytest.approx(falling[7])


def test_a_run_with_a_schedule_goes_on_to_the_same_bits(teacher, tmp_path):
    straight = Trainer(scheduled(6), teacher, tmp_path / "a", Silent())
    straight.run()
    first = Trainer(scheduled(6), teacher, tmp_path / "b", Silent())
    first.begin(False)
    for _ in range(4):
        first.train_one_step()
    again = Trainer(scheduled(6), teacher, tmp_path / "b", Silent())
    again.run(resume=True)
    for name, tensor in straight.networks()["student"].state_dict().items():
        assert torch.equal(tensor, again.networks()["student"].state_dict()[name]), name


def test_a_schedule_that_ended_with_its_run_ends_there_in_a_longer_one(tmp_path):
    student = {"optimizer": RATES}
    distilled(tmp_path / "run", steps=2, student=student)
    with pytest.raises(SpecError, match=r"cannot change `student\.optimizer\.schedule\.steps`"):
        distilled(tmp_path / "run", steps=3, resume=True, student=student)
    named = {"optimizer": {**RATES, "schedule": {**LINE, "steps": 2}}}
    distilled(tmp_path / "run", steps=3, resume=True, student=named)


def test_a_schedule_is_a_word_or_a_group():
    path = "student.optimizer.schedule"

    def schedule(*sets):
        spec = resolve_spec(DistillSpec, sets=[f"{path}{end}" for end in sets], environment={})
        return spec.spec.student.optimizer.schedule.model_dump()

    assert schedule("=cosine") == {"kind": "cosine", "floor": 0.0, "hold": 0.0, "steps": None}
    assert schedule("=linear", ".floor=0.1")["floor"] == 0.1
    with pytest.raises(SpecError, match="floor, hold and steps need kind linear or cosine"):
        schedule(".floor=0.1")
    with pytest.raises(SpecError, match="must be one of constant, linear, cosine"):
        schedule("=cosin")


def test_only_a_schedule_that_falls_fixes_the_length_of_a_run():
    assert fixed_settings(small_spec())["student"]["optimizer"]["schedule"]["steps"] is None
    assert fixed_settings(scheduled())["student"]["optimizer"]["schedule"]["steps"] == 12
