"""Recorded on a card, a step of every family is the step as it is written."""

import contextlib

import pytest
import torch

from dimo_cli.engine.capture import WARM_UP, CapturedStep, obstacle
from dimo_cli.engine.distill import Distillation
from dimo_cli.teachers.compiling import compile_blocks
from tests.engine.test_capture import GAN_SETTINGS, SETTINGS, refinement, smooth_spec
from tests.gpu.test_training import precision_of
from tests.helpers.crossing import each_of_both
from tests.helpers.tiny import FAMILIES, tiny_teacher


@pytest.fixture(autouse=True)
def _only_on_a_card(device):
    if device.type == "cpu":
        pytest.skip("tests/engine/test_capture.py is this for a CPU")


def distillation(name, setting, device, autocast):
    teacher, generator = tiny_teacher(name).to(device), torch.Generator(device).manual_seed(0)
    return Distillation(teacher, smooth_spec(**SETTINGS[setting]), generator, autocast)


@pytest.mark.parametrize(("name", "setting"), each_of_both(FAMILIES, SETTINGS))
def test_replayed_steps_are_plain_steps(name, setting, device, exact):
    hold_against_plain(
        *(distillation(name, setting, device, contextlib.nullcontext) for _ in range(2))
    )


@pytest.mark.parametrize(("name", "setting"), each_of_both(FAMILIES, GAN_SETTINGS))
def test_so_are_those_of_a_refinement_with_a_gan(name, setting, device, exact):
    def run():
        generator = torch.Generator(device).manual_seed(0)
        return refinement(tiny_teacher(name).to(device), generator, **GAN_SETTINGS[setting])

    hold_against_plain(run(), run())


def hold_against_plain(plain, run):
    assert obstacle(run) is None
    captured = CapturedStep(run, pytest.fail)
    for one in (plain, captured):
        torch.manual_seed(0)  # of dropout
        for step in range(WARM_UP + 6):
            one.step(step)
    assert captured.recordings
    for network, other in zip(plain.networks().values(), run.networks().values(), strict=True):
        found = other.state_dict()
        for key, tensor in network.state_dict().items():
            torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.parametrize("name", ["digits", "maskbit", "meissonic"])
def test_compiled_blocks_are_recorded_as_well(name, device):
    run = distillation(name, "fresh", device, precision_of(device))
    for backbone in run.backbones():
        compile_blocks(backbone, pytest.fail)
    captured = CapturedStep(run, pytest.fail)
    for step in range(2 * WARM_UP + 4):
        report = captured.step(step, measure=step % 2 == 1)
    assert set(captured.recordings) == {False, True}
    assert report.values
    assert all(torch.as_tensor(value).isfinite() for value in report.values.values())
