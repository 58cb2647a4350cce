"""How the auxiliary learns the student's tokens, against plain autograd."""

import pytest
import torch

from tests.helpers.distilling import assert_same, disturb, gradients, make, recorded_x_init


def test_auxiliary_receives_the_cross_entropy_of_equation_1(teacher):
    di = make(teacher, auxiliary={"label_smoothing": 0.1})
    disturb(di.auxiliary)
    generation = di.generate(0)
    x_tilde, mask = di.remasking.at(generation.tokens, torch.full((8,), 0.5), di.generator)
    hidden = di.hidden(di.auxiliary, di.auxiliary.embed(x_tilde), generation.cond)
    loss, plain, masked = di.auxiliary_update.backward(generation, mask, hidden)
    found = {name: gradient / masked for name, gradient in gradients(di.auxiliary).items()}
    di.auxiliary.zero_grad()
    logits = di.auxiliary(x_tilde, generation.cond)[mask.slots]
    expected = torch.nn.functional.cross_entropy(
        logits, generation.tokens[mask.slots], label_smoothing=0.1
    )
    expected.backward()
    torch.testing.assert_close(loss / masked, expected.detach(), rtol=1e-4, atol=1e-5)
    assert_same(found, gradients(di.auxiliary))
    without = torch.nn.functional.cross_entropy(logits, generation.tokens[mask.slots])
    torch.testing.assert_close(plain / masked, without.detach(), rtol=1e-4, atol=1e-5)


def test_the_gap_is_what_the_auxiliary_knows_however_it_learns(teacher):
    """In its first step it is the teacher, whatever its loss is."""
    ways = ({}, {"label_smoothing": 0.1}, {"soft_weight": 0.5})
    gaps = [make(teacher, auxiliary=way).step(0, True).values["auxiliary_gap"] for way in ways]
    assert gaps == pytest.approx([gaps[0]] * 3, rel=1e-4)


def test_soft_targets_use_the_students_distribution(teacher):
    di = make(teacher, auxiliary={"soft_weight": 1.0}, init={"embed_noise": 0.0})
    generation = di.generate(0)
    x_init = recorded_x_init(di, generation)
    x_tilde, mask = di.remasking.at(generation.tokens, torch.full((8,), 0.5), di.generator)
    hidden = di.hidden(di.auxiliary, di.auxiliary.embed(x_tilde), generation.cond)
    loss, _, masked = di.auxiliary_update.backward(generation, mask, hidden)
    with torch.no_grad():
        p = di.student(x_init, generation.cond)[mask.slots].log_softmax(-1)
        q = di.auxiliary(x_tilde, generation.cond)[mask.slots].log_softmax(-1)
    expected = (p.exp() * (p - q)).mean()
    torch.testing.assert_close(loss / masked, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "groups",
    [
        {"masking": {"content": "soft"}},
        {"auxiliary": {"soft_weight": 1.0}},
        {"masking": {"content": "soft"}, "auxiliary": {"updates": 2, "share_x_tilde": True}},
    ],
)
def test_the_auxiliary_learns_the_probabilities_of_before_the_heads_update(teacher, groups):
    run = make(teacher, **groups, student={"optimizer": {"learning_rate": 0.1, "warmup_steps": 0}})
    generation = run.generate(0)
    rows = torch.arange(generation.tokens.shape[0] * generation.tokens.shape[1])
    before = run.student_logits(generation, rows)
    run.student_update.backward(generation, False)
    run.auxiliary_update.keep_logits(generation)
    run.student_optimizer.update(0)
    assert torch.equal(run.student_logits(generation, rows), before)


def test_no_logits_are_kept_where_nothing_asks_for_them_later(teacher):
    for groups in ({}, {"masking": {"content": "soft"}, "auxiliary": {"fresh_samples": True}}):
        run = make(teacher, **groups)
        generation = run.generate(0)
        run.auxiliary_update.keep_logits(generation)
        assert generation.logits is None
