"""Divergences: closed-form gradients equal autograd, and the released code's numbers."""

import re

import pytest
import torch
from torch.autograd import gradcheck

from dimo_cli.engine import divergence as D
from dimo_cli.errors import SpecError
from dimo_cli.specs import divergences as specs

CASES = {
    "fkl": D.ForwardKL(),
    "rkl": D.ReverseKL(),
    "jeffreys_-0.2": D.Jeffreys(-0.2),
    "jeffreys_0": D.Jeffreys(0.0),
    "jeffreys_0.3": D.Jeffreys(0.3),
    "jeffreys_1": D.Jeffreys(1.0),
    "js": D.JensenShannon(),
    "hellinger": D.SquaredHellinger(),
    "alpha_0.5": D.Alpha(0.5),
    "alpha_-1": D.Alpha(-1.0),
    "alpha_2": D.Alpha(2.0),
    "pearson": D.FromGenerator(D.GENERATORS["pearson"]),
    "le_cam": D.FromGenerator(D.GENERATORS["le_cam"]),
}

# The same divergence written as a generator f of Table 4, to hold each closed form against Eq. 17.
AS_GENERATOR = {
    "fkl": D.GENERATORS["forward_kl"],
    "rkl": D.GENERATORS["reverse_kl"],
    "jeffreys_0.3": lambda u: ((1 - 0.3) * u - 0.3) * u.log(),
    "js": D.GENERATORS["jensen_shannon"],
    "hellinger": D.GENERATORS["squared_hellinger"],
    "alpha_0.5": lambda u: (u**0.5 - 0.5 * u - 0.5) / (0.5 * -0.5),
}


@pytest.fixture
def logits(generator):
    teacher, auxiliary = torch.randn(2, 5, 11, generator=generator, dtype=torch.float64)
    return 2 * teacher, 2 * auxiliary


@pytest.mark.parametrize("name", CASES)
def test_gradient_equals_autograd_of_the_value(name, logits):
    teacher, auxiliary = logits
    auxiliary.requires_grad_()
    log_p, log_q = teacher.log_softmax(-1), auxiliary.log_softmax(-1)
    (expected,) = torch.autograd.grad(CASES[name].value(log_p, log_q).sum(), auxiliary)
    torch.testing.assert_close(CASES[name].logit_gradient(log_p, log_q.detach()), expected)


@pytest.mark.parametrize("name", AS_GENERATOR)
def test_closed_form_is_the_f_divergence_of_its_generator(name, logits):
    log_p, log_q = (z.log_softmax(-1) for z in logits)
    general = D.FromGenerator(AS_GENERATOR[name])
    torch.testing.assert_close(CASES[name].value(log_p, log_q), general.value(log_p, log_q))
    torch.testing.assert_close(
        CASES[name].logit_gradient(log_p, log_q), general.logit_gradient(log_p, log_q)
    )


@pytest.mark.parametrize("name", CASES)
def test_equal_distributions_have_no_divergence_and_no_gradient(name, logits):
    log_p = logits[0].log_softmax(-1)
    assert CASES[name].value(log_p, log_p).abs().max() < 1e-12
    assert CASES[name].logit_gradient(log_p, log_p).abs().max() < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_gradient_sums_to_zero_and_stays_finite_on_extreme_logits(name):
    teacher = torch.tensor([[80.0, 0.0, -80.0], [0.0, 0.0, 0.0], [-80.0, 80.0, 0.0]])
    auxiliary = torch.tensor([[-80.0, 0.0, 80.0], [90.0, 0.0, 0.0], [-80.0, 80.0, 0.0]])
    gradient = CASES[name].logit_gradient(teacher.log_softmax(-1), auxiliary.log_softmax(-1))
    assert gradient.isfinite().all()
    scale = gradient.abs().max().clamp(min=1)
    assert (gradient.sum(-1).abs() / scale).max() < 1e-4


def test_alpha_tends_to_the_kls(logits):
    log_p, log_q = (z.log_softmax(-1) for z in logits)
    for alpha, limit in ((1e-5, D.ForwardKL()), (1 - 1e-5, D.ReverseKL())):
        torch.testing.assert_close(
            D.Alpha(alpha).logit_gradient(log_p, log_q),
            limit.logit_gradient(log_p, log_q),
            atol=1e-3,
            rtol=1e-3,
        )


def released(name):
    kind, _, beta = name.partition("_")
    return {"fkl": D.ForwardKL(), "rkl": D.ReverseKL()}.get(kind) or D.Jeffreys(float(beta))


# Divergence, reduction, and the temperatures of teacher and auxiliary where they are not 1.
RECORDED = re.compile(
    r"(fkl|rkl|jeffreys_-?[\d.]+)\.(sum|mean)(?:\.tt([\d.]+)_at([\d.]+))?\.grad_student_logits"
)


def recorded_fields(data, reduction):
    """The recorded cases of a reduction: their key, and our field before it is reduced."""
    mask = data["mask"].flatten(1)[..., None]
    cases = [case for case in map(RECORDED.fullmatch, data) if case and case[2] == reduction]
    assert {"fkl", "rkl"} <= {case[1] for case in cases}
    for case in cases:
        teacher_temperature, auxiliary_temperature = (float(t or 1) for t in case.group(3, 4))
        log_p = (data["teacher_logits"] / teacher_temperature).log_softmax(-1)
        log_q = (data["aux_logits"] / auxiliary_temperature).log_softmax(-1)
        field = released(case[1]).logit_gradient(log_p, log_q) * mask
        yield case[0].removesuffix(".grad_student_logits"), field


def test_field_and_gradient_are_those_of_the_released_code(golden):
    data = golden("maskgit/loss.safetensors")
    for key, field in recorded_fields(data, "sum"):
        torch.testing.assert_close(field, data[f"{key}.direction"], atol=1e-6, rtol=0)
        # The released loss is 0.5 |z - sg(z - g)|^2, whose gradient is g and whose value is this.
        loss = 0.5 * field.square().sum() / len(field)
        expected = data[f"{key}.loss"].squeeze()
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-8)
        expected = data[f"{key}.grad_student_logits"]
        torch.testing.assert_close(field / len(field), expected, atol=1e-6, rtol=0)


def test_mean_reduction_divides_by_all_logits(golden):
    data = golden("maskgit/loss.safetensors")
    for key, field in recorded_fields(data, "mean"):
        expected = data[f"{key}.grad_student_logits"]
        torch.testing.assert_close(field / field.numel(), expected, atol=1e-8, rtol=1e-5)


def test_entropy_gradient_equals_autograd(generator):
    logits = torch.randn(3, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    log_p = logits.log_softmax(-1)
    (expected,) = torch.autograd.grad(-(log_p.exp() * log_p).sum(), logits)
    torch.testing.assert_close(D.entropy_logit_gradient(logits.detach()), expected)


def test_values_are_differentiable_to_double_precision(logits):
    def value(z):
        return D.JensenShannon().value(logits[0].log_softmax(-1), z.log_softmax(-1))

    assert gradcheck(value, logits[1].requires_grad_())


def test_a_registered_generator_can_be_asked_for_by_name(logits):
    D.register_generator("half_pearson", lambda u: 0.5 * (u - 1).square())
    try:
        built = D.build_divergence(specs.RegisteredGenerator(name="half_pearson"))
        log_p, log_q = (z.log_softmax(-1) for z in logits)
        torch.testing.assert_close(
            2 * built.logit_gradient(log_p, log_q), CASES["pearson"].logit_gradient(log_p, log_q)
        )
    finally:
        del D.GENERATORS["half_pearson"]


def test_an_unknown_generator_is_refused_with_the_nearest_name():
    with pytest.raises(SpecError) as caught:
        D.build_divergence(specs.RegisteredGenerator(name="pearsen"))
    assert "pearson" in caught.value.hint


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (specs.ForwardKL(), D.ForwardKL),
        (specs.ReverseKL(), D.ReverseKL),
        (specs.Jeffreys(beta=0.3), D.Jeffreys),
        (specs.JensenShannon(), D.JensenShannon),
        (specs.SquaredHellinger(), D.SquaredHellinger),
        (specs.AlphaDivergence(alpha=2.0), D.Alpha),
    ],
)
def test_every_spec_builds_its_divergence(spec, kind):
    assert isinstance(D.build_divergence(spec), kind)
