"""Runs whose student and auxiliary are adapters over the teacher."""

import torch
from safetensors.torch import load_file

from dimo_cli.teachers.registry import load_teacher
from dimo_cli.teachers.stored import is_stored
from dimo_cli.training.trainer import Trainer
from tests.conftest import Silent, small_spec


def lora_spec(rank=2, **groups):
    student = groups.pop("student", {}) | {
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 0},
        "ema": {"decay": 0.9},
        "lora": {"rank": rank},
    }
    return small_spec(student=student, **groups)


def trained(folder, steps=6, resume=False, **groups):
    spec = lora_spec(train={"steps": steps}, **groups)
    trainer = Trainer(spec, load_teacher("digits"), folder, Silent())
    trainer.run(resume)
    return trainer


def test_checkpoints_hold_adapters_and_their_moments_alone(tmp_path):
    trainer = trained(tmp_path)
    folder = trainer.checkpoints.path(6)
    for name in ("student", "auxiliary", "ema"):
        weights = load_file(folder / f"{name}.safetensors")
        assert weights["blocks.0.qkv.lora_A.weight"].shape == (2, 64)
        assert weights["blocks.0.qkv.lora_B.weight"].shape == (192, 2)
        assert len(weights) == 2 * 16
    state = torch.load(folder / "state.pt", weights_only=True)["student_optimizer"]["optimizer"]
    assert len(state["state"]) == 2 * 16


def test_a_run_goes_on_exactly_where_it_stopped(tmp_path):
    whole = trained(tmp_path / "whole")
    trained(tmp_path / "parts", steps=3)
    parts = trained(tmp_path / "parts", resume=True)
    for name in ("student", "auxiliary", "ema"):
        file = f"{name}.safetensors"
        expected = load_file(whole.checkpoints.path(6) / file)
        found = load_file(parts.checkpoints.path(6) / file)
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_run_over_int8_goes_on_exactly_where_it_stopped(tmp_path):
    stored = {"teacher": {"weights": "int8"}}
    whole = trained(tmp_path / "whole", **stored)
    trained(tmp_path / "parts", steps=3, **stored)
    parts = trained(tmp_path / "parts", resume=True, **stored)
    plain = trained(tmp_path / "plain")
    files = [t.checkpoints.path(6) / "student.safetensors" for t in (whole, parts, plain)]
    expected, found, other = (load_file(path) for path in files)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert not all(torch.equal(other[key], expected[key]) for key in expected)
    base = whole.distillation.teacher.backbone
    assert base.blocks[0].qkv.weight.dtype == torch.int8
    assert whole.averaged.blocks[0].qkv.weight is base.blocks[0].qkv.weight


def test_copies_start_from_the_weights_as_they_were_loaded(tmp_path):
    spec = small_spec(teacher={"weights": "int8"})
    trainer = Trainer(spec, load_teacher("digits"), tmp_path, Silent())
    expected = load_teacher("digits").backbone.state_dict()
    for network in (trainer.distillation.student, trainer.distillation.auxiliary):
        found = network.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert is_stored(trainer.distillation.teacher.backbone)
    trainer.run()
    assert not is_stored(trainer.averaged)


def test_the_average_is_of_adapters_alone(tmp_path):
    trainer = trained(tmp_path)
    base = {id(p) for p in trainer.distillation.teacher.backbone.parameters()}
    average = {id(p) for p in trainer.averaged.parameters()}
    assert base < average
    assert len(average - base) == 2 * 16
    means = load_file(trainer.checkpoints.path(6) / "ema.safetensors")
    now = load_file(trainer.checkpoints.path(6) / "student.safetensors")
    assert any(not torch.equal(means[key], now[key]) for key in means)


def test_the_teacher_is_the_same_when_all_is_trained(tmp_path):
    expected = load_teacher("digits").backbone.state_dict()
    found = trained(tmp_path).distillation.teacher.backbone.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
