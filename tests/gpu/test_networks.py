"""Every family's networks say on the device what they say on a CPU, and every sampler draws there.

Tolerances are shares of the largest number compared: float32 sums in another order on a card.
"""

import copy

import pytest
import torch

from benchmarks.real.sample import student_of
from dimo_cli.sampling.samplers import build_sampler
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.target import Target
from tests.helpers.crossing import each_of_both
from tests.helpers.tiny import FAMILIES, tiny_teacher

LOGITS, IMAGES, GRADIENTS = 1e-4, 1e-3, 1e-3
SAMPLERS = ("published", "random", "confidence", "halton", "theta")


def assert_agrees(found, expected, share):
    bound = share * expected.abs().max().item()
    assert (found.cpu() - expected).abs().max().item() <= bound


def drawn(teacher, count=2):
    """Tokens and conditions, the same ones for every device."""
    generator = torch.Generator().manual_seed(0)
    space = teacher.space
    shape = (count, space.length, space.groups)
    tokens = torch.randint(space.codes, shape, generator=generator)
    torch.manual_seed(0)
    return tokens, teacher.conditioner.draw(count, generator).to("cpu")


def both(teacher, device):
    """A teacher's networks on a CPU, and copies on the device."""
    here = (teacher.backbone, teacher.tokenizer)
    return here, tuple(copy.deepcopy(network).to(device) for network in here)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_and_images_are_those_of_a_cpu(name, device, exact):
    teacher = tiny_teacher(name)
    tokens, cond = drawn(teacher)
    (backbone, tokenizer), (moved, decoder) = both(teacher, device)
    with torch.inference_mode():
        logits = moved(tokens.to(device), cond.to(device))
        images = decoder.decode(tokens.to(device), cond.to(device))
        assert_agrees(logits, backbone(tokens, cond), LOGITS)
        assert_agrees(images, tokenizer.decode(tokens, cond), IMAGES)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_those_of_a_cpu(name, device, exact):
    teacher = tiny_teacher(name)
    tokens, cond = drawn(teacher)
    (backbone, _), (moved, _) = both(teacher, device)
    for network, place in ((backbone, "cpu"), (moved, device)):
        network.requires_grad_(True)
        logits = network(tokens.to(place), cond.to(place))
        logits.log_softmax(-1)[..., 0].mean().backward()
    largest = max(p.grad.abs().max() for p in backbone.parameters() if p.grad is not None).item()
    for ours, theirs in zip(backbone.parameters(), moved.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            assert (theirs.grad.cpu() - ours.grad).abs().max().item() <= GRADIENTS * largest


@pytest.mark.parametrize(("name", "sampler"), each_of_both(FAMILIES, SAMPLERS, times=2))
def test_every_sampler_of_a_teacher_draws_on_the_device(name, sampler, device):
    teacher = tiny_teacher(name).to(device)
    cond = teacher.conditioner.draw(2, torch.Generator().manual_seed(0)).to(device)
    spec = SamplerSpec(teacher=True, method=sampler, steps=3, guidance=2.0)
    sample, _ = build_sampler(Target(teacher, None), spec)
    images = sample(cond, torch.Generator(device).manual_seed(0))
    assert images.device.type == device.type
    side = teacher.space.image_size
    assert images.shape[0] == 2
    assert images.shape[-2:] == (side, side)
    assert images.isfinite().all()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_student_draws_on_the_device_the_same_for_the_same_seed(name, device):
    student = student_of(name, tiny_teacher(name).to(device))
    cond = student.teacher.conditioner.draw(2, torch.Generator().manual_seed(0)).to(device)
    for settings in ({}, {"temperature": 0.5, "top_k": 4, "top_p": 0.9}):
        one, other = (
            student.sample(cond, torch.Generator(device).manual_seed(1), **settings)
            for _ in range(2)
        )
        assert one.isfinite().all()
        assert one.dtype == torch.float32
        assert torch.equal(one, other)
