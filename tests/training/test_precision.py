"""What a GPU is given differs from what the CPU has only where autocast would round anyway."""

import copy

import pytest
import torch

from dimo_cli.engine.optimizer import Ema
from dimo_cli.training.precision import matrices, store_in_bf16, tf32
from dimo_cli.training.trainer import Trainer
from tests.conftest import Silent, small_spec
from tests.helpers.tiny import FAMILIES, tiny_teacher


@pytest.mark.parametrize("name", FAMILIES)
def test_rounding_a_frozen_networks_matrices_changes_nothing_under_autocast(name):
    teacher = tiny_teacher(name)
    space, cond = teacher.space, teacher.conditioner.blank(2)
    tokens = torch.randint(space.codes, (2, space.length, space.groups))

    def logits():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return teacher.backbone(tokens, cond)

    before = logits()
    restore = store_in_bf16(teacher.backbone)
    assert any(p.dtype == torch.bfloat16 for p in teacher.backbone.parameters())
    assert logits().equal(before)
    restore()
    assert all(p.dtype == torch.float32 for p in teacher.backbone.parameters())


def test_rounded_matrices_come_back_with_all_their_digits(teacher):
    backbone = copy.deepcopy(teacher.backbone)
    restore = store_in_bf16(backbone)
    rounded = {id(parameter) for parameter in matrices(backbone)}
    assert {p.dtype for p in backbone.parameters() if id(p) not in rounded} == {torch.float32}
    restore()
    for mine, original in zip(backbone.parameters(), teacher.backbone.parameters(), strict=True):
        assert mine.equal(original)


def test_a_network_that_is_trained_keeps_all_its_digits(teacher):
    backbone = copy.deepcopy(teacher.backbone).requires_grad_(True)
    with pytest.raises(ValueError, match="all its digits"):
        store_in_bf16(backbone)


def test_tf32_is_as_it_was_after_a_step():
    def state():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = state()
    for enabled in (True, False):
        with tf32(enabled):
            assert state() == (enabled, enabled)
        assert state() == before


def test_an_average_at_home_is_the_one_beside_the_student(teacher, tmp_path):
    found = {}
    for offload in (False, True):
        spec = small_spec(student={"ema": {"offload": offload}})
        found[offload] = Trainer(spec, teacher, tmp_path / str(offload), Silent()).run()
    for kept, offloaded in zip(found[False].parameters(), found[True].parameters(), strict=True):
        assert kept.equal(offloaded)


def test_an_average_goes_on_where_it_was_used_last():
    source = torch.nn.Linear(2, 2)
    ema = Ema(copy.deepcopy(source), source, home="cpu")
    for _ in range(3):
        with torch.no_grad():
            source.weight.add_(1)
        before = ema.at("cpu").weight.clone()
        ema.update(0.5)
        torch.testing.assert_close(ema.network.weight, (before + source.weight) / 2)
