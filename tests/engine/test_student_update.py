"""What the student is asked of a pass, held against a plain implementation (Eq. 7)."""

import pytest
import torch

from dimo_cli.engine import masking
from dimo_cli.engine.divergence import build_divergence
from tests.helpers.distilling import assert_same, disturb, gradients, make, recorded_x_init


@pytest.mark.parametrize("reduction", ["sum", "mean", "masked_mean"])
@pytest.mark.parametrize("divergence", [{"kind": "fkl"}, {"kind": "jeffreys", "beta": 0.3}])
@pytest.mark.parametrize("guidance", [1.0, 2.0, {"kind": "linear", "scale": 3.0}])
def test_student_receives_the_gradient_of_equation_7(teacher, reduction, divergence, guidance):
    di = make(
        teacher,
        loss={"divergence": divergence, "reduction": reduction, "chunk_tokens": 37},
        teacher={"guidance": guidance},
        init={"embed_noise": 0.0},
    )
    disturb(di.auxiliary)
    generation = di.generate(0)
    before = di.run_generator.get_state()
    x_init = recorded_x_init(di, generation)
    di.student_update.backward(generation, measure=False)
    found = gradients(di.student)

    di.run_generator.set_state(before)
    di.student.zero_grad()
    ratio = masking.draw_ratio("arccos", 8, di.generator)
    x_tilde, mask = di.remasking.at(generation.tokens, ratio, di.generator)
    null = teacher.conditioner.null(8)
    with torch.no_grad():
        conditional = teacher.backbone(x_tilde, generation.cond)
        unconditional = teacher.backbone(x_tilde, null)
        scale = ratio * 0 + guidance if isinstance(guidance, float) else 1 + 2 * ratio
        guided = unconditional + scale[:, None, None, None] * (conditional - unconditional)
        log_p = guided.log_softmax(-1)
        log_q = di.auxiliary(x_tilde, generation.cond).log_softmax(-1)
        field = build_divergence(di.spec.loss.divergence).logit_gradient(log_p, log_q)
        field = field * mask.slots[..., None]
    divisor = {
        "sum": torch.tensor(8.0),
        "mean": torch.tensor(8.0 * 64 * 17),
        "masked_mean": 8 * mask.slots.sum((1, 2)).float()[:, None, None, None],
    }[reduction]
    student_logits = di.student(x_init, generation.cond)
    (student_logits * (field / divisor)).sum().backward()
    assert_same(found, gradients(di.student))


@pytest.mark.parametrize("student_input", ["x_init", "x_tilde", "x_tilde_init"])
def test_the_three_approximations_feed_the_student_what_they_say(teacher, student_input):
    di = make(teacher, loss={"student_input": student_input}, init={"embed_noise": 0.0})
    generation = di.generate(0)
    x_tilde, _ = di.remasking.at(generation.tokens, torch.full((8,), 0.5), di.generator)
    hidden = di.student_update.hidden_at_x_tilde(generation, x_tilde)
    tokens = {
        "x_init": recorded_x_init(di, generation),
        "x_tilde": x_tilde,
        "x_tilde_init": generation.tokens.masked_fill(generation.init_mask, 17),
    }[student_input]
    expected = di.hidden(di.student, di.student.embed(tokens), generation.cond)
    torch.testing.assert_close(hidden, expected)
    assert hidden.requires_grad
