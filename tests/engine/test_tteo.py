"""Test-time embedding optimization: every start as if alone, and never worse than it began."""

import pytest
import torch

from dimo_cli.engine.tteo import clipped, optimize_embeddings, render, start_embeddings
from dimo_cli.specs.init import InitSpec
from dimo_cli.specs.tteo import TteoSpec


def brightness(images):
    """A reward with a simple gradient."""
    return images.mean((1, 2, 3))


@pytest.fixture
def start(teacher, generator):
    return start_embeddings(
        teacher.backbone, teacher.space, teacher.tokenizer, InitSpec(), 4, generator
    )


def run(teacher, start, score=brightness, rows=slice(None), **settings):
    cond = teacher.conditioner.labels(torch.tensor([3, 3, 8, 8]))[rows]
    spec = TteoSpec(**settings)
    return optimize_embeddings(teacher.backbone, teacher.tokenizer, cond, start[rows], score, spec)


def test_the_score_rises_and_the_best_iterate_is_kept(teacher, start):
    found = run(teacher, start, iterations=6, learning_rate=3.0)
    assert found.trace.shape == (7, 4)
    assert torch.equal(found.scores, found.trace.amax(0))
    assert bool((found.scores > found.trace[0]).all())
    assert found.best == int(found.scores.argmax())


def test_starts_in_one_batch_move_as_if_each_were_alone(teacher, start):
    together = run(teacher, start, iterations=4, learning_rate=2.0)
    for row in range(4):
        alone = run(teacher, start, rows=slice(row, row + 1), iterations=4, learning_rate=2.0)
        torch.testing.assert_close(alone.trace[:, 0], together.trace[:, row], atol=1e-5, rtol=1e-4)


def test_no_iterations_are_best_of_n(teacher, start):
    found = run(teacher, start, iterations=0)
    assert torch.equal(found.embeddings, start)
    assert found.trace.shape == (1, 4)
    assert found.best == int(found.trace[0].argmax())


def test_a_worse_path_still_gives_the_start(teacher, start):
    def backwards(images):
        """Says how bright an image is, and points towards the dark."""
        value = brightness(images)
        return 2 * value.detach() - value

    found = run(teacher, start, score=backwards, iterations=3, learning_rate=2.0)
    assert bool((found.trace[-1] < found.trace[0]).all())
    assert torch.equal(found.embeddings, start)


def test_the_first_step_is_nesterovs(teacher, start):
    """SGD with Nesterov momentum m starts with (1 + m) times the plain step."""
    seen = []

    def watch(images):
        seen.append(images.detach())
        return brightness(images)

    cond = teacher.conditioner.labels(torch.tensor([3, 3, 8, 8]))
    leaf = start.clone().requires_grad_()
    from dimo_cli.engine.tteo import token_probs

    probs = token_probs(teacher.backbone, leaf, cond, 1.0)
    brightness(teacher.tokenizer.decode_probs(probs)).sum().backward()
    stepped = start + 0.5 * 1.9 * leaf.grad
    run(teacher, start, score=watch, iterations=1, learning_rate=0.5)
    expected = teacher.tokenizer.decode_probs(token_probs(teacher.backbone, stepped, cond, 1.0))
    torch.testing.assert_close(seen[1], expected, atol=1e-5, rtol=1e-5)


def test_no_network_receives_a_gradient(teacher, start):
    run(teacher, start, iterations=2)
    assert all(p.grad is None for p in teacher.backbone.parameters())


def test_a_prompt_that_scores_enough_is_updated_no_further(teacher, start):
    whole = run(teacher, start, iterations=6, learning_rate=3.0)
    enough = float(whole.trace[2].max())
    short = run(teacher, start, iterations=6, learning_rate=3.0, stop_at=enough)
    assert torch.equal(short.trace, whole.trace[:3])
    assert float(short.scores.max()) >= enough


def test_ties_keep_the_earlier_start(teacher, start):
    found = run(teacher, start, score=lambda images: 0 * brightness(images), iterations=1)
    assert found.best == 0


def test_clipping_limits_each_start_by_itself():
    gradient = torch.stack([torch.full((2, 2), 5.0), torch.full((2, 2), 0.01)])
    limited = clipped(gradient, 1.0)
    assert float(limited[0].norm()) == pytest.approx(1.0)
    assert torch.equal(limited[1], gradient[1])
    assert clipped(gradient, None) is gradient


def test_the_saved_embeddings_make_the_image_again_in_one_pass(teacher, start):
    found = run(teacher, start, iterations=3, learning_rate=2.0)
    cond = teacher.conditioner.labels(torch.tensor([3, 3, 8, 8]))
    images = render(teacher.backbone, teacher.tokenizer, cond, found.embeddings, TteoSpec())
    torch.testing.assert_close(brightness(images), found.scores, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(images, found.images, atol=1e-5, rtol=1e-5)
    hard = render(
        teacher.backbone, teacher.tokenizer, cond, found.embeddings, TteoSpec(decode="argmax")
    )
    assert torch.equal(teacher.tokenizer.decode(teacher.tokenizer.encode(hard)), hard)
