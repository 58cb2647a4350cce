"""IDLM against the numbers of its authors' code, and against worlds that can be counted."""

import pytest
import torch

from dimo_cli.engine.auxiliary import soft_target_gradient
from dimo_cli.engine.objectives.idlm import student_gradient
from tests.helpers.worlds import expected_gradient, student_of, world_of

WORLDS = ("three", "two_groups", "equal_bits")


def over_codes(logits):
    """Probabilities without the mask, which is the last id."""
    return logits[..., :-1].log_softmax(-1)


def test_the_students_gradient_is_that_of_the_authors_code(golden):
    io = {k.removeprefix("student."): t for k, t in golden("objectives/idlm.safetensors").items()}
    log_p, log_psi, log_phi = (
        over_codes(io[f"{name}_logits"]) for name in ("student", "auxiliary", "teacher")
    )
    mask = io["x_t_prime"].max()
    asked = (io["x_tilde"] == mask) & (io["x_t_prime"] == mask)  # what is carried gets none
    gradient, loss = student_gradient(log_p, log_psi, log_phi)
    scale = (asked / io["t"][:, None])[..., None]
    expected = io["grad_student_logits"]
    torch.testing.assert_close(gradient * scale / len(mask[None].expand(4)), expected[..., :-1],
                               atol=1e-6, rtol=0)  # fmt: skip
    assert expected[..., -1].abs().max() == 0
    assert loss.shape == asked.shape


def test_the_auxiliarys_gradient_is_that_of_the_authors_code(golden):
    every = golden("objectives/idlm.safetensors")
    io = {k.removeprefix("auxiliary."): t for k, t in every.items() if k.startswith("auxiliary.")}
    mask = io["x_t_prime"].max()
    p = over_codes(io["student_logits"]).exp()
    carried = io["x_t_prime"] != mask
    codes = io["x_t_prime"].masked_fill(~carried, 0)
    p = torch.where(carried[..., None], torch.nn.functional.one_hot(codes, p.shape[-1]).to(p), p)
    scale = ((io["x_tilde"] == mask) / io["t"][:, None])[..., None] / 4
    found = soft_target_gradient(over_codes(io["auxiliary_logits"]), p) * scale
    torch.testing.assert_close(found, io["grad_auxiliary_logits"][..., :-1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["factorised", "mixture", "engine"])
@pytest.mark.parametrize("place", WORLDS)
def test_its_average_is_the_gradient_of_the_kl_at_masked_tokens(golden, place, name):
    """Part A of the KL's gradient; for a student with one input it is Di[M]O's reverse KL."""
    world = world_of(golden(f"objectives/world_{place}.safetensors"))
    student = student_of(world.tensors, name)

    def gradient_of(p, psi, phi):
        return student_gradient(p.log(), psi.log(), phi.log())[0].nan_to_num()

    for law, kind in (("calibrated", "field"), ("arccos", "field_arccos")):
        found = expected_gradient(world, student, law, gradient_of)
        torch.testing.assert_close(found, student.tensors[f"{kind}.A"], atol=1e-10, rtol=0)
    same = torch.allclose(student.tensors["field.A"], student.tensors["field.rkl"], atol=1e-9)
    assert same == (name == "factorised")


def test_a_factorised_student_comes_to_rest_where_the_sheet_says(golden):
    """At the weighted geometric mean of the teacher's predictions over all sizes of masks."""
    world = world_of(golden("objectives/world_three.safetensors"))
    rest = world.tensors["optimum.idlm.probabilities"]
    tensors = {**world.tensors, "student.rest.logits": rest.log()[None],
               "student.rest.weights": rest.new_ones(1)}  # fmt: skip

    def gradient_of(p, psi, phi):
        return student_gradient(p.log(), psi.log(), phi.log())[0].nan_to_num()

    found = expected_gradient(world, student_of(tensors, "rest"), "calibrated", gradient_of)
    assert found.abs().max() < 1e-6
