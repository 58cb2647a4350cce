"""Every family trains on the device, with every method and setting, in the precision of the device.

The networks are tiny ones of each family; on a card they run in bf16, as they do by default.
"""

import contextlib

import pytest
import torch

from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.refine import Refinement
from dimo_cli.specs.refine import RefineSpec
from tests.conftest import small_spec
from tests.helpers.crossing import each_of_both
from tests.helpers.tiny import FAMILIES, tiny_teacher

SETTINGS = {
    "guidance": {"teacher": {"guidance": 2.0}},
    "accumulation": {"train": {"accumulate": 2}},
    "checkpointing": {"train": {"gradient_checkpointing": True}},
    "fresh_samples": {"auxiliary": {"fresh_samples": True, "updates": 2}},
    "shared_x_tilde": {"auxiliary": {"share_x_tilde": True}},
    "soft_content": {"masking": {"content": "soft"}},
}
GAN = {"gan": {"enabled": True, "weight": "auto", "width": 16, "heads": 2}}
REWARD = {"reward": {"terms": {"clip": 1.0}, "weight": 1.0}}
METHODS = {"gan": GAN, "reward": REWARD, "both": {**GAN, **REWARD}}


class AnyTokens:
    """Real images, as far as a discriminator can tell: tokens without meaning."""

    def __init__(self, teacher):
        self.teacher = teacher

    def draw(self, count, generator, rows=slice(None)):
        space = self.teacher.space
        shape = (count, space.length, space.groups)
        tokens = torch.randint(space.codes, shape, generator=generator, device=generator.device)
        return tokens[rows], self.teacher.conditioner.draw(count, generator)[rows]


def brightness(images, texts):
    return images.mean((1, 2, 3))


def precision_of(device):
    if device.type == "cuda":
        return lambda: torch.autocast("cuda", torch.bfloat16)
    return contextlib.nullcontext


def assert_it_learns(run, device, steps=3):
    before = [parameter.detach().clone() for parameter in run.student.parameters()]
    for step in range(steps):
        report = run.step(step, measure=True)
        assert not report.skipped
        assert all(torch.as_tensor(value).isfinite().all() for value in report.values.values())
    after = list(run.student.parameters())
    assert all(tensor.device.type == device.type for tensor in after)
    assert all(tensor.isfinite().all() for tensor in after)
    assert any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(("name", "setting"), each_of_both(FAMILIES, SETTINGS))
def test_a_student_of_any_family_learns_with_any_setting(name, setting, device):
    spec = small_spec(**SETTINGS[setting], init={"embed_noise": 0.1})
    generator = torch.Generator(device).manual_seed(0)
    teacher = tiny_teacher(name).to(device)
    assert_it_learns(Distillation(teacher, spec, generator, precision_of(device)), device)


@pytest.mark.parametrize(("name", "method"), each_of_both(FAMILIES, METHODS))
def test_a_student_of_any_family_is_refined_with_any_method(name, method, device):
    teacher = tiny_teacher(name).to(device)
    groups = METHODS[method]
    run = Refinement(
        teacher,
        RefineSpec.model_validate({**small_spec().model_dump(), **groups}),
        torch.Generator(device).manual_seed(0),
        precision_of(device),
        start=teacher.backbone,
        data=AnyTokens(teacher) if "gan" in groups else None,
        rewards={"brightness": (brightness, 1.0)} if "reward" in groups else {},
    )
    assert_it_learns(run, device)
