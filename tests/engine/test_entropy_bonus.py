"""The entropy bonus, against autograd."""

from tests.helpers.distilling import assert_same, disturb, gradients, make, recorded_x_init


def test_entropy_bonus_adds_the_gradient_of_the_entropy(teacher):
    plain, bonus = (
        make(teacher, loss={"entropy_bonus": weight}, init={"embed_noise": 0.0})
        for weight in (0.0, 0.5)
    )
    found, passes = [], []
    for di in (plain, bonus):
        disturb(di.auxiliary)
        generation = di.generate(0)
        generation.hidden.register_hook(passes.append)
        di.student_update.backward(generation, measure=False)
        found.append(gradients(di.student))
    assert len(passes) == 2  # one of each student
    x_init = recorded_x_init(bonus, generation)
    bonus.student.zero_grad()
    log_p = bonus.student(x_init, generation.cond).log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum() / 8
    (-0.5 * entropy).backward()
    expected = {n: found[0][n] + g for n, g in gradients(bonus.student).items()}
    assert_same(found[1], expected, atol=1e-5)
