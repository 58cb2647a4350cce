"""CatDrift: closed form, who looks at whom, and where it comes to rest."""

import contextlib

import pytest
import torch

from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.objective import Supplies
from dimo_cli.engine.objectives.catdrift import (
    categorical_field,
    drift_target,
    same_condition,
    towards,
)
from dimo_cli.engine.refine import Refinement
from dimo_cli.errors import SpecError
from dimo_cli.planning.rehearsal import BlankImages
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.teachers.protocol import Cond
from tests.conftest import small_spec
from tests.helpers.tabular import tabular_teacher
from tests.helpers.worlds import world_of


@pytest.mark.parametrize("eta", ["0.1", "1.0"])
def test_the_gradient_is_that_of_the_cross_entropy_to_the_moved_softmax(golden, eta):
    closed = golden("objectives/closed.safetensors")
    logits, field = closed["catdrift.logits"], closed["catdrift.field"]
    target = drift_target(logits, field, float(eta))
    gradient, loss = towards(logits, target)
    for name, found in (("target", target), ("gradient", gradient), ("loss", loss)):
        torch.testing.assert_close(found, closed[f"catdrift.{eta}.{name}"], atol=1e-10, rtol=0)


def test_without_a_field_there_is_no_gradient():
    logits = torch.randn(3, 4, 2, 5, dtype=torch.float64)
    gradient, _ = towards(logits, drift_target(logits, torch.zeros_like(logits), 1.0))
    assert gradient.abs().max() < 1e-15


def test_images_look_only_at_those_of_their_condition():
    torch.manual_seed(0)
    tokens, real = torch.randint(5, (2, 6, 3, 2))
    group = torch.tensor([0, 0, 0, 1, 1, 2])
    alike = group[:, None] == group
    field = categorical_field(tokens, real, alike, 5, 0.5)
    assert field.shape == (6, 3, 2, 5)
    assert field.sum(-1).abs().max() < 1e-5
    changed = real.clone()
    changed[3:] = torch.randint(5, (3, 3, 2))
    # The reach of the kernel is that of all images; it is wide open here.
    wide = categorical_field(tokens, real, alike, 5, 1e6)
    torch.testing.assert_close(categorical_field(tokens, changed, alike, 5, 1e6)[:3], wide[:3])
    one_hot = torch.nn.functional.one_hot
    torch.testing.assert_close(field[5], (one_hot(real[5], 5) - one_hot(tokens[5], 5)).float())


def test_conditions_are_the_same_where_all_their_tensors_are():
    cond = Cond({"a": torch.tensor([1, 1, 2, 1]), "b": torch.tensor([[0.0], [1], [0], [0]])})
    expected = torch.eye(4, dtype=torch.bool)
    expected[0, 3] = expected[3, 0] = True
    assert torch.equal(same_condition(cond), expected)


class FromJoint:
    """Real images that are drawn from a world's own law."""

    def __init__(self, world, teacher):
        self.world, self.teacher = world, teacher
        (self.full,) = (world.states[world.counts == 0],)

    def draw(self, count, generator, rows=slice(None)):
        joint = self.world.tensors["joint"].flatten()
        picked = torch.multinomial(joint, count, replacement=True, generator=generator)
        shape = (count, self.teacher.space.length, self.teacher.space.groups)
        return self.full[picked].view(shape)[rows], self.teacher.conditioner.null(count)[rows]


@pytest.mark.parametrize("place", ["two_groups"])
def test_a_student_of_independent_tokens_comes_to_the_marginals_of_real_images(golden, place):
    world = world_of(golden(f"objectives/world_{place}.safetensors"))
    teacher = tabular_teacher(world)
    slots, codes = world.teacher.shape[1:]
    spec = small_spec(
        init={"mask_ratio": 1.0, "embed_noise": 0.0},
        student={"optimizer": {"learning_rate": 0.1, "warmup_steps": 0}},
        train={"batch_size": 256, "steps": 40},
    )
    spec = type(spec).model_validate(
        {**spec.model_dump(), "objectives": [{"kind": "catdrift", "bandwidth": 100}]}
    )
    supplies = Supplies(data=FromJoint(world, teacher))
    generator = torch.Generator().manual_seed(0)
    run = Distillation(teacher, spec, generator, contextlib.nullcontext, supplies=supplies)
    with torch.no_grad():
        run.student.table[-1] = torch.randn(slots, codes, generator=generator)
    before = run.student.table[-1].softmax(-1).detach().clone()
    for step in range(40):
        run.step(step)
    full, joint = world.states[world.counts == 0], world.tensors["joint"].flatten()
    marginals = torch.stack([
        torch.stack([joint[full[:, slot] == code].sum() for code in range(codes)])
        for slot in range(slots)
    ])  # fmt: skip
    after = run.student.table[-1].softmax(-1).detach()
    assert (after - marginals).abs().max() < 0.08
    assert (before - marginals).abs().max() > 0.2


def test_it_trains_the_student_alone(teacher):
    spec = small_spec()
    spec = type(spec).model_validate({**spec.model_dump(), "objectives": ["catdrift"]})
    supplies = Supplies(data=BlankImages(teacher))
    generator = torch.Generator().manual_seed(0)
    run = Distillation(teacher, spec, generator, contextlib.nullcontext, supplies=supplies)
    before = {name: t.clone() for name, t in run.student.state_dict().items()}
    run.step(0)
    values = run.step(1, measure=True).values
    assert set(run.networks()) == {"student"}
    assert values["catdrift_loss"] > 0
    assert any(not torch.equal(t, before[name]) for name, t in run.student.state_dict().items())


def test_it_is_refused_beside_a_loss_whose_data_decides_the_conditions(teacher):
    spec = resolve_spec(RefineSpec, preset="digits-gan", environment={},
                        sets=["objectives=[catdrift]", "gan.weight=1"]).spec  # fmt: skip
    images = BlankImages(teacher)
    with pytest.raises(SpecError, match="gan and catdrift both draw real images"):
        Refinement(teacher, spec, torch.Generator(), contextlib.nullcontext, start=teacher.backbone,
                   data=images, supplies=Supplies(data=images))  # fmt: skip
