"""What multiplies the gradient of each sample."""

import torch

from tests.helpers.distilling import make, recorded_x_init


def test_adaptive_weight_is_one_over_the_probability_gap(teacher):
    di = make(teacher, loss={"weight": {"kind": "adaptive"}}, init={"embed_noise": 0.0})
    generation = di.generate(0)
    x_init = recorded_x_init(di, generation)
    x_tilde, mask = di.remasking.at(generation.tokens, torch.full((8,), 0.5), di.generator)
    project = di.teacher_logits(
        teacher.backbone.embed(x_tilde), generation.cond, torch.full((8,), 0.5)
    )
    weight = di.student_update.sample_weights(generation.hidden, project, mask.slots)
    with torch.no_grad():
        student = di.student(x_init, generation.cond).softmax(-1)
        gap = (student - teacher.backbone(x_tilde, generation.cond).softmax(-1)).abs()
    torch.testing.assert_close(weight, 1 / (8 * gap.mean((1, 2, 3))), rtol=1e-4, atol=1e-6)
