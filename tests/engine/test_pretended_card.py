"""What would break on a card breaks here: a step of every family on tensors without content.

On the pretended card a tensor that was left on the CPU is refused, as a real one refuses it.
"""

import contextlib
from dataclasses import replace

import pytest
import torch

from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.refine import Refinement
from dimo_cli.planning.rehearsal import rehearse
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.teachers.protocol import Cond
from tests.conftest import small_spec
from tests.gpu.test_training import METHODS, SETTINGS, AnyTokens, brightness
from tests.helpers.crossing import each_of_both
from tests.helpers.syncs import CardGenerator, on_card, pretended_card
from tests.helpers.tiny import FAMILIES, tiny_teacher
from tests.teachers.test_protocol import pin


def on_pretended_card(teacher):
    return replace(
        teacher, backbone=on_card(teacher.backbone), tokenizer=on_card(teacher.tokenizer)
    )


def distill_once(name, groups):
    teacher = tiny_teacher(name)
    with pretended_card():
        teacher = on_pretended_card(teacher)
        generator = CardGenerator("cpu")
        Distillation(teacher, small_spec(**groups), generator, contextlib.nullcontext).step(0)


@pytest.mark.parametrize(("name", "setting"), each_of_both(FAMILIES, SETTINGS, times=2))
def test_a_step_of_any_family_has_all_on_the_card(name, setting):
    distill_once(name, SETTINGS[setting])


@pytest.mark.parametrize(("name", "method"), each_of_both(FAMILIES, METHODS))
def test_a_refinement_of_any_family_has_all_on_the_card(name, method):
    teacher, groups = tiny_teacher(name), METHODS[method]
    spec = RefineSpec.model_validate({**small_spec().model_dump(), **groups})
    with pretended_card():
        teacher = on_pretended_card(teacher)
        Refinement(
            teacher,
            spec,
            CardGenerator("cpu"),
            contextlib.nullcontext,
            start=teacher.backbone,
            data=AnyTokens(teacher) if "gan" in groups else None,
            rewards={"brightness": (brightness, 1.0)} if "reward" in groups else {},
        ).step(0)


def test_a_condition_that_was_left_on_the_cpu_is_noticed(monkeypatch):
    monkeypatch.setattr(Cond, "to", lambda cond, device: cond)
    with pytest.raises(RuntimeError, match="device"):
        distill_once("maskgit", {})


@pytest.mark.parametrize("name", FAMILIES)
def test_every_condition_of_a_family_can_be_pinned(name, monkeypatch):
    conditioner = tiny_teacher(name).conditioner
    found = [
        conditioner.null(3),
        conditioner.blank(3),
        conditioner.draw(3, torch.Generator().manual_seed(0)),
    ]
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *place, **settings: self)
    for cond in found:
        moved = cond.to("cuda")
        for key, tensor in cond.tensors.items():
            assert moved.tensors[key].shape == tensor.shape


def in_half(name):
    spec = small_spec(**SETTINGS["checkpointing"])

    def build(teacher, generator, autocast):
        return Distillation(teacher, spec, generator, autocast)

    return rehearse(tiny_teacher(name), build, half=True, most_rows=1024)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_of_any_family_runs_in_half_precision_with_checkpointing(name):
    assert sum(in_half(name).peak.values()) > 0
