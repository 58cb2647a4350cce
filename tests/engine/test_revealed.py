"""The credit of revealed tokens: with the gradient at masked ones, it is that of the KL."""

import pytest
import torch

from dimo_cli.engine.objectives.idlm import student_gradient
from dimo_cli.engine.revealed import Baseline, score_gradient
from tests.helpers.worlds import expected_gradient, student_of, world_of

WORLDS = ("three", "two_groups", "equal_bits")


def credit_of(world, student):
    """C of each input and state [I, N]."""
    p = student.probs[:, None].expand(-1, len(world.states), -1, -1)
    log_psi = student.auxiliary.log().expand_as(p)
    _, earned = student_gradient(p.log(), log_psi, world.teacher.log().expand_as(p))
    return (earned.nan_to_num() * world.masked).sum(-1)


def at_revealed(world, student, advantage):
    """The score's gradient at each revealed slot, for an advantage [I, N]: [I, N, S, V]."""
    log_p = student.probs[:, None].log().expand(-1, len(world.states), -1, -1)
    tokens = world.states.masked_fill(world.masked, 0).expand(log_p.shape[:-1])
    return score_gradient(log_p, tokens, advantage[..., None] * ~world.masked)


def chances(world, student, law):
    """P(state) of each input [I, N] and the weight of each state [N]."""
    probability, weight = (world.tensors[f"law.{law}.{part}"] for part in ("probability", "weight"))
    chance = student.weights[:, None] * student.reaches(world, probability)
    return chance, torch.cat([weight.new_zeros(1), weight])[world.counts]


@pytest.mark.parametrize("name", ["factorised", "mixture", "engine"])
@pytest.mark.parametrize("place", WORLDS)
@pytest.mark.parametrize("law", ["calibrated", "arccos_calibrated"])
def test_with_masked_tokens_it_is_the_gradient_of_the_kl(golden, place, name, law):
    world = world_of(golden(f"objectives/world_{place}.safetensors"))
    student = student_of(world.tensors, name)
    chance, weight = chances(world, student, law)
    advantage = weight * credit_of(world, student) - 0.3 * world.counts  # a baseline per count
    found = (chance[..., None, None] * at_revealed(world, student, advantage)).sum(1)
    own = student.tensors
    torch.testing.assert_close(found, own["field.B"], atol=1e-10, rtol=0)

    def gradient_of(p, psi, phi):
        return student_gradient(p.log(), psi.log(), phi.log())[0].nan_to_num()

    masked = expected_gradient(world, student, law, gradient_of)
    torch.testing.assert_close(masked + found, own["gradient.kl_qp"], atol=1e-10, rtol=0)


def test_it_comes_to_rest_where_the_kl_is_least_and_not_where_masked_tokens_do(golden):
    world = world_of(golden("objectives/world_three.safetensors"))
    rest = world.tensors["optimum.exact.probabilities"]
    tensors = {**world.tensors, "student.rest.logits": rest.log()[None],
               "student.rest.weights": rest.new_ones(1)}  # fmt: skip
    student = student_of(tensors, "rest")
    chance, weight = chances(world, student, "calibrated")
    advantage = weight * credit_of(world, student)
    revealed = (chance[..., None, None] * at_revealed(world, student, advantage)).sum(1)

    def gradient_of(p, psi, phi):
        return student_gradient(p.log(), psi.log(), phi.log())[0].nan_to_num()

    masked = expected_gradient(world, student, "calibrated", gradient_of)
    assert (masked + revealed).abs().max() < 1e-6
    assert masked.abs().max() > 0.01


@pytest.mark.parametrize("kind", ["none", "per_count"])
def test_a_baseline_per_count_of_masked_tokens_takes_most_of_the_noise(golden, kind):
    world = world_of(golden("objectives/world_three.safetensors"))
    closed = golden("objectives/closed.safetensors")
    logits = closed["baseline.first.logits"]
    tensors = {**world.tensors, "student.b.logits": logits[None],
               "student.b.weights": logits.new_ones(1)}  # fmt: skip
    student = student_of(tensors, "b")
    chance, weight = chances(world, student, "calibrated")
    value = weight * credit_of(world, student)
    baseline = Baseline(slots=3)
    if kind == "per_count":
        for k in (1, 2, 3):
            of = world.counts == k
            mean = (chance * value)[:, of].sum() / chance[:, of].sum()
            baseline.see(mean[None], torch.tensor([k]))
        baseline.end()
    advantage = value - baseline.of(world.counts.clamp(min=1))
    drawn = at_revealed(world, student, advantage)
    mean = (chance[..., None, None] * drawn).sum((0, 1))
    torch.testing.assert_close(mean, closed["baseline.first.mean"], atol=1e-10, rtol=0)
    variance = (chance[..., None, None] * drawn.square()).sum() - mean.square().sum()
    expected = closed[f"baseline.first.variance.{kind}"][0]
    torch.testing.assert_close(variance, expected, atol=1e-10, rtol=0)
