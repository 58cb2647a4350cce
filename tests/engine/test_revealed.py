"""The credit of revealed tokens: with the gradient at masked ones, it is that of the KL."""

import contextlib

import pytest
import torch

from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.objectives.idlm import student_gradient
from dimo_cli.engine.revealed import Baseline, score_gradient
from dimo_cli.errors import SpecError
from tests.conftest import small_spec
from tests.helpers.tabular import state_numbers, tabular_teacher
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


def run_in(world, student, samples, **loss):
    """A distillation in a world whose student and auxiliary are those of a golden file."""
    teacher, codes = tabular_teacher(world), world.teacher.shape[-1]
    inits = student.tensors["inits"]
    masked = float((inits[0] == codes).sum())
    spec = small_spec(
        init={"mask_ratio": masked / inits.shape[1], "embed_noise": 0.0},
        loss={"divergence": "rkl", "weight": "calibrated", **loss},
        train={"batch_size": samples},
    )
    spec = type(spec).model_validate({**spec.model_dump(), "objectives": ["idlm"]})
    generator = torch.Generator().manual_seed(1)
    run = Distillation(teacher, spec, generator, contextlib.nullcontext)
    rows = state_numbers(inits, codes)
    with torch.no_grad():
        run.student.table[rows] = student.tensors["logits"].float()
        run.auxiliary.table.copy_(student.auxiliary.log().clamp(min=-1e4))
    return run, rows


@pytest.mark.parametrize("place", ["three", "two_groups"])
def test_as_the_engine_draws_it_is_the_gradient_of_the_kl_within_five_standard_errors(
    golden, place
):
    world = world_of(golden(f"objectives/world_{place}.safetensors"))
    student = student_of(world.tensors, "engine")
    run, rows = run_in(world, student, 4000, revealed_credit=1.0)
    found = []
    for _ in range(20):
        run.losses.begin(0)
        run.student_update.backward(run.generate(0), measure=False)
        run.losses.credit.end()
        found.append(run.student.table.grad[rows].clone())
        run.student.zero_grad()
    found = torch.stack(found).double()
    error = found.std(0) / len(found) ** 0.5
    expected = student.tensors["gradient.kl_qp"]
    assert ((found.mean(0) - expected).abs() < 5 * error + 1e-6).all()
    without = student.tensors["field.A"]
    assert ((found.mean(0) - without).abs() > 5 * error).any()


def test_passes_and_steps_do_not_change_what_samples_earn(teacher):
    """The baseline is that of whole steps, so that it is the same however a batch is cut."""

    def weights(**train):
        # With a large `eps`: what has no gradient but for rounding stays.
        smooth = {"optimizer": {"learning_rate": 1e-3, "warmup_steps": 0, "eps": 1e-3}}
        loss = {"divergence": "rkl", "revealed_credit": 1.0}
        spec = small_spec(loss=loss, train=train, student=smooth, auxiliary=smooth)
        run = Distillation(teacher, spec, torch.Generator().manual_seed(0), contextlib.nullcontext)
        for step in range(3):
            run.step(step)
        return run

    whole, parts = weights(batch_size=8), weights(batch_size=4, accumulate=2)
    for name, tensor in whole.student.state_dict().items():
        torch.testing.assert_close(parts.student.state_dict()[name], tensor, rtol=1e-4, atol=2e-5)
    state = whole.state()
    assert state
    assert all(name.startswith("credit_of_level_") for name in state)
    parts.load_state(state)
    assert parts.state() == state


def test_zero_is_no_credit_bit_for_bit_and_one_changes_the_student(teacher):
    def after(**loss):
        spec = small_spec(loss={"divergence": "rkl", **loss})
        run = Distillation(teacher, spec, torch.Generator().manual_seed(0), contextlib.nullcontext)
        for step in range(3):
            run.step(step)
        return run.student.state_dict()["blocks.0.qkv.weight"]

    assert torch.equal(after(), after(revealed_credit=0.0))
    assert not torch.equal(after(), after(revealed_credit=1.0))


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ({"loss": {"divergence": "fkl"}}, "`loss.divergence` is fkl, not rkl"),
        ({"objectives": ["dmmd"]}, "`objectives` names dmmd"),
        ({"loss": {"student_input": "x_tilde"}}, "where no token was drawn"),
        ({"student": {"steps": [2]}}, "`student.steps` are several"),
        ({"masking": {"content": "soft"}}, "no drawn tokens"),
        ({"loss": {"weight": "adaptive"}}, "`loss.weight` is adaptive"),
    ],
)
def test_where_it_belongs_to_no_kl_it_is_refused(teacher, groups, reason):
    loss = {"divergence": "rkl", "revealed_credit": 0.5, **groups.pop("loss", {})}
    objectives = groups.pop("objectives", [])
    spec = small_spec(loss=loss, **groups)
    spec = type(spec).model_validate({**spec.model_dump(), "objectives": objectives})
    with pytest.raises(SpecError, match=r"`loss.revealed_credit` is 0\.5, but") as caught:
        Distillation(teacher, spec, torch.Generator(), contextlib.nullcontext)
    assert reason in str(caught.value)
