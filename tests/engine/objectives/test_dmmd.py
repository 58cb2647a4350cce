"""D-MMD: the anchored auxiliary, and what the student then descends."""

import contextlib

import pytest
import torch

from dimo_cli.engine.auxiliary import soft_target_gradient
from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.divergence import GENERATORS, FromGenerator
from dimo_cli.engine.objectives.idlm import student_gradient
from dimo_cli.errors import SpecError
from tests.conftest import small_spec
from tests.helpers.worlds import expected_gradient, student_of, world_of


@pytest.mark.parametrize("name", ["factorised", "mixture", "engine"])
@pytest.mark.parametrize("place", ["three", "two_groups", "equal_bits"])
def test_its_average_is_that_of_an_auxiliary_half_way_to_the_teacher(golden, place, name):
    world = world_of(golden(f"objectives/world_{place}.safetensors"))
    student = student_of(world.tensors, name)

    def gradient_of(p, psi, phi):
        anchored = (psi + phi) / 2
        return student_gradient(p.log(), anchored.log(), phi.log())[0].nan_to_num()

    found = expected_gradient(world, student, "calibrated", gradient_of)
    torch.testing.assert_close(found, student.tensors["field.dmmd"], atol=1e-10, rtol=0)


@pytest.mark.parametrize("case", [0, 1, 2])
def test_it_descends_twice_the_kl_of_the_middle_to_the_teacher(golden, case):
    closed = golden("objectives/closed.safetensors")
    q, p = closed[f"bregman.{case}.student"], closed[f"bregman.{case}.teacher"]
    divergence = FromGenerator(GENERATORS["dmmd"])
    found = divergence.logit_gradient(p.log(), q.log())
    torch.testing.assert_close(found, closed[f"bregman.{case}.dmmd.gradient"], atol=1e-10, rtol=0)
    value = divergence.value(p.log(), q.log())
    expected = closed[f"bregman.{case}.dmmd.value"][0]
    torch.testing.assert_close(value, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("anchor", [0.5, 1.0])
def test_the_anchored_auxiliary_is_best_between_student_and_teacher(anchor):
    q, phi = torch.rand(2, 3, 5, dtype=torch.float64).softmax(-1)
    best = ((q + anchor * phi) / (1 + anchor)).log()
    gradient = soft_target_gradient(best, q) + anchor * soft_target_gradient(best, phi)
    assert gradient.abs().max() < 1e-12
    assert (best - phi.log()).min() >= torch.tensor(anchor / (1 + anchor)).log()


def test_its_gradient_is_that_of_the_cross_entropy_to_the_teacher():
    logits, phi = torch.randn(3, 5, dtype=torch.float64), torch.rand(3, 5, dtype=torch.float64)
    phi = phi / phi.sum(-1, keepdim=True)
    leaf = logits.clone().requires_grad_()
    (-(phi * leaf.log_softmax(-1)).sum()).backward()
    torch.testing.assert_close(soft_target_gradient(logits.log_softmax(-1), phi), leaf.grad)


def run_of(teacher, objective, **groups):
    spec = small_spec(**groups).model_copy(update={"objectives": ()})
    spec = type(spec).model_validate({**spec.model_dump(), "objectives": [objective]})
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    return Distillation(teacher, spec, generator, contextlib.nullcontext)


@pytest.mark.parametrize("auxiliary", [{}, {"share_x_tilde": True}, {"fresh_samples": True}])
def test_the_anchor_reaches_the_auxiliary_and_not_the_first_step_of_the_student(teacher, auxiliary):
    """From equal weights the field is zero, with an anchor and without."""
    frozen = {"student": {"optimizer": {"learning_rate": 1e-9}}, "auxiliary": auxiliary}
    with_anchor, without = (run_of(teacher, kind, **frozen) for kind in ("dmmd", "idlm"))
    found = [run.step(0, measure=True).values for run in (with_anchor, without)]
    assert abs(found[0]["divergence"]) < 1e-6
    assert found[0]["auxiliary_loss"] == pytest.approx(found[1]["auxiliary_loss"])
    for run in (with_anchor, without):
        for step in (1, 2):  # the first has no rate, and after it the auxiliary is the teacher
            run.step(step)
    weight = "blocks.0.qkv.weight"
    networks = [run.auxiliary.state_dict()[weight] for run in (with_anchor, without)]
    assert not torch.equal(*networks)


def test_an_anchor_that_is_no_number_above_zero_is_refused(teacher):
    for anchor in (0, -1, "much", True):
        with pytest.raises(SpecError, match="`anchor` of objective dmmd is"):
            run_of(teacher, {"kind": "dmmd", "anchor": anchor})
