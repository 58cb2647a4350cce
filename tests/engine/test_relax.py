"""Gradients through tokens: the exact ones where they are known, and the papers' bounds."""

import pytest
import torch
import torch.nn.functional as F

from dimo_cli.engine.fidelity import (
    embedding_covariance_trace,
    image_error,
    measure_fidelity,
    tokenizer_error,
)
from dimo_cli.engine.relax import estimate, relaxed
from dimo_cli.teachers.digits import LEVELS, training_tokens

DRAWS = 40_000


@pytest.fixture
def logits(generator):
    return torch.randn(2, 5, generator=generator)


@pytest.fixture
def objective(generator):
    matrix = torch.randn(10, 10, generator=generator)

    def quadratic(weights):
        x = weights.flatten(1)
        return ((x @ matrix) * x).sum(-1)

    return quadratic


def exact_gradient(logits, objective):
    """Of E[objective] over two slots, by trying every pair of tokens."""
    logits = logits.clone().requires_grad_()
    p = logits.softmax(-1)
    size = logits.shape[-1]
    pairs = torch.cartesian_prod(torch.arange(size), torch.arange(size))
    value = (
        p[0, pairs[:, 0]] * p[1, pairs[:, 1]] * objective(F.one_hot(pairs, size).float())
    ).sum()
    return torch.autograd.grad(value, logits)[0]


def gradients(kind, logits, objective, generator, temperature=1.0, draws=DRAWS, **more):
    many = logits.expand(draws, *logits.shape).clone().requires_grad_()
    surrogate, values = estimate(kind, many, objective, generator, temperature, **more)
    return torch.autograd.grad(surrogate, many)[0], values


def assert_unbiased(each, exact):
    error = (each.std(0) / len(each) ** 0.5).clamp(min=1e-4)
    assert ((each.mean(0) - exact).abs() < 4.5 * error).all()


def test_soft_weights_are_probabilities_in_float32_at_any_temperature(generator):
    logits = torch.randn(3, 4, 2, 6, generator=generator, dtype=torch.bfloat16)
    weights = relaxed("soft", logits, generator, 0.5)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, (logits.float() * 2).softmax(-1))
    cold = relaxed("soft", logits, generator, 1e-3)
    assert cold.amax(-1).mean() > 0.95
    assert relaxed("soft", logits.double(), generator).dtype == torch.float64


def test_straight_through_weights_are_one_hot_draws_of_the_students_distribution(generator):
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(DRAWS, 3)
    weights = relaxed("gumbel_st", logits, generator, 0.3)
    assert ((weights == 0) | (weights == 1)).all()
    assert (weights.sum(-1) == 1).all()
    torch.testing.assert_close(weights.mean(0), logits[0].softmax(-1), atol=0.01, rtol=0)


def test_straight_through_gradients_are_those_of_the_gumbel_softmax(logits, generator):
    leaf = logits.clone().requires_grad_()
    probe = torch.randn(2, 5, generator=generator)
    state = generator.get_state()
    (gradient,) = torch.autograd.grad(
        (relaxed("gumbel_st", leaf, generator, 0.7) * probe).sum(), leaf
    )
    generator.set_state(state)
    noise = -torch.empty(2, 5).exponential_(generator=generator).log()
    soft = ((leaf + noise) / 0.7).softmax(-1)
    (expected,) = torch.autograd.grad((soft * probe).sum(), leaf)
    torch.testing.assert_close(gradient, expected)


def test_the_same_seed_draws_the_same_weights(logits):
    first, second = (
        relaxed("gumbel_st", logits, torch.Generator().manual_seed(3), 1.0) for _ in range(2)
    )
    assert torch.equal(first, second)


def test_reinforce_has_no_bias(logits, objective, generator):
    each, values = gradients("reinforce", logits, objective, generator)
    assert values.shape == (DRAWS,)
    assert_unbiased(each, exact_gradient(logits, objective))


def test_the_leave_one_out_baseline_lowers_the_variance_and_any_baseline_is_unbiased(
    logits, objective, generator
):
    def shifted(weights):
        return objective(weights) + 10

    exact = exact_gradient(logits, objective)
    own, _ = gradients("reinforce", logits, shifted, generator)
    none, _ = gradients("reinforce", logits, shifted, generator, baseline=0.0)
    given, _ = gradients(
        "reinforce", logits, shifted, generator, baseline=torch.full((DRAWS,), 9.0)
    )
    for each in (own, none, given):
        assert_unbiased(each, exact)
    assert own.var(0).sum() < none.var(0).sum() / 3


def test_a_single_sample_of_reinforce_goes_without_a_baseline(logits, objective, generator):
    each, values = gradients("reinforce", logits, objective, generator, draws=1)
    assert each.isfinite().all()
    assert each.abs().sum() > 0
    assert values.shape == (1,)


def test_all_are_unbiased_for_a_linear_objective_but_straight_through_is_not_for_others(
    logits, objective, generator
):
    probe = torch.randn(2, 5, generator=generator)

    def linear(weights):
        return (weights * probe).sum((1, 2))

    exact = exact_gradient(logits, linear)
    soft, _ = gradients("soft", logits, linear, generator, draws=1)
    torch.testing.assert_close(soft[0], exact)
    bent = exact_gradient(logits, objective)
    straight, _ = gradients("gumbel_st", logits, objective, generator)
    assert (straight.mean(0) - bent).norm() > 0.1 * bent.norm()


def test_soft_gradients_do_not_depend_on_the_seed(logits, objective, generator):
    each, values = gradients("soft", logits, objective, generator, draws=4)
    torch.testing.assert_close(each, each[:1].expand_as(each))
    assert not values.requires_grad


def test_the_error_of_soft_values_stays_below_lemma_g3(objective, generator):
    L = torch.linalg.matrix_norm(
        torch.autograd.functional.hessian(lambda x: objective(x[None]).sum(), torch.zeros(10)), 2
    )
    for sharpness in (0.1, 1.0, 5.0, 20.0):
        p = (sharpness * torch.randn(2, 5, generator=generator)).softmax(-1)
        pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5))
        values = objective(F.one_hot(pairs, 5).float())
        expected = (p[0, pairs[:, 0]] * p[1, pairs[:, 1]] * values).sum()
        bound = L / 2 * embedding_covariance_trace(p, torch.eye(5)).sum()
        assert (objective(p[None])[0] - expected).abs() <= bound + 1e-5


def test_averages_and_baselines_without_use_are_refused(logits, objective, generator):
    many = logits.expand(3, 2, 5)
    with pytest.raises(ValueError, match="one value a sample"):
        estimate("soft", many, lambda weights: objective(weights).mean(), generator)
    with pytest.raises(ValueError, match="baseline"):
        estimate("soft", many, objective, generator, baseline=0.0)
    with pytest.raises(ValueError, match="no relaxation"):
        relaxed("reinforce", logits, generator)


def test_the_covariance_trace_is_the_mean_squared_distance_from_the_mean(generator):
    p = torch.randn(3, 2, 6, generator=generator).softmax(-1)
    table = torch.randn(6, 4, generator=generator) + 100
    distances = (table - (p @ table)[..., None, :]).square().sum(-1)
    expected = (p * distances).sum(-1).double()
    torch.testing.assert_close(embedding_covariance_trace(p, table), expected, atol=1e-3, rtol=1e-3)
    certain = F.one_hot(torch.tensor([2]), 6).float()
    assert embedding_covariance_trace(certain, table).item() == pytest.approx(0, abs=1e-6)


def test_fidelity_of_certain_logits_is_perfect_and_of_vague_ones_is_not(teacher, generator):
    tokens = training_tokens()[0][:8]
    sharp = 200.0 * F.one_hot(tokens, LEVELS)
    images = teacher.tokenizer.decode(tokens)
    found = measure_fidelity(teacher.tokenizer, teacher.space, sharp, generator, images=images)
    assert found.soft_vs_sampled == pytest.approx(0, abs=1e-12)
    assert found.soft_vs_argmax == pytest.approx(0, abs=1e-12)
    assert found.tokenizer == pytest.approx(0, abs=1e-12)
    assert (found.entropy, found.top1) == pytest.approx((0, 1))
    vague = measure_fidelity(teacher.tokenizer, teacher.space, torch.zeros_like(sharp), generator)
    assert vague.entropy == pytest.approx(torch.tensor(float(LEVELS)).log().item(), rel=1e-5)
    assert vague.top1 == pytest.approx(1 / LEVELS)
    # Uniform levels on [0, 1] against their mean: the variance of k / 16 for k = 0 to 16.
    assert vague.soft_vs_sampled == pytest.approx((LEVELS**2 - 1) / 12 / 16**2, rel=0.15)
    assert vague.tokenizer is None


def test_fidelity_falls_with_the_temperature_of_the_soft_embeddings(teacher, generator):
    logits = 6.0 * F.one_hot(training_tokens()[0][:8], LEVELS)
    errors = [
        measure_fidelity(
            teacher.tokenizer, teacher.space, logits, generator, temperature=temperature
        ).soft_vs_argmax
        for temperature in (0.5, 1.0, 2.0)
    ]
    assert errors == sorted(errors)


def test_errors_are_of_images_as_they_are_seen(teacher):
    black, white = torch.full((1, 3, 8, 8), -3.0), torch.full((1, 3, 8, 8), 3.0)
    assert image_error(black, white) == 1.0
    assert tokenizer_error(teacher.tokenizer, torch.full((1, 3, 8, 8), 1 / 16)) == pytest.approx(
        (1 / 32) ** 2
    )
