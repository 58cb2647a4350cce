"""Di-Bregman: samples weigh in the reverse KL by what the discriminator has said of them."""

import pytest
import torch

from dimo_cli.engine import bregman
from dimo_cli.engine.bregman import COEFFICIENTS, LEAST, MOST, density_ratio, sample_factors
from tests.engine.test_refine import GAN, build, refine_spec, snapshot

H = {"neyman": "square", "forward_kl": "minus_log", "jensen_shannon": "js"}
KINDS = list(H)
WEIGHED = ("bregman_weight", "bregman_effective_share")


SMALL = {"batch_size": 4, "steps": 6}


def refinement(teacher, kind, start=0, **groups):
    """A run with a discriminator, which begins alike for every kind."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    gan = {**GAN, "bregman": kind, "start": start}
    loss = {"divergence": {"kind": "rkl"}}
    return build(teacher, generator, gan=gan, loss=loss, train=SMALL, **groups)


@pytest.mark.parametrize("case", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_coefficient_is_the_second_derivative_of_h_times_the_ratio(golden, kind, case):
    closed = golden("objectives/closed.safetensors")
    ratio = closed[f"bregman.{case}.student"] / closed[f"bregman.{case}.teacher"]
    expected = closed[f"bregman.{case}.{H[kind]}.coefficient"]
    torch.testing.assert_close(COEFFICIENTS[kind](ratio), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("case", [0, 1, 2])
@pytest.mark.parametrize("h", ["rlogr", *H.values()])
def test_the_gradient_of_weighed_samples_is_right_where_student_and_data_are_close(golden, h, case):
    """Of one token x of q, on average: its sample's whole field of the reverse KL, h''(r) r times.

    It is exact for h = r log r; cases 0 and 1 are far from the data, in case 2 r is about 1.
    """
    closed = golden("objectives/closed.safetensors")
    q, p = closed[f"bregman.{case}.student"], closed[f"bregman.{case}.teacher"]
    kinds = {name: kind for kind, name in H.items()}
    weight = COEFFICIENTS[kinds[h]](q / p) if h in kinds else torch.ones_like(q)
    d = (q / p).log()
    found = (q * weight).sum() * q * (d - (q * d).sum())
    torch.testing.assert_close(found, closed[f"bregman.{case}.{h}.plug_in"], atol=1e-10, rtol=0)
    error = (found - closed[f"bregman.{case}.{h}.gradient"]).abs().max()
    if h == "rlogr" or case == 2:
        assert error < (1e-12 if h == "rlogr" else 1e-4)
    else:
        assert error > 1e-2


def test_the_ratio_is_that_of_the_chances_and_has_bounds():
    chance_of_real = torch.tensor([0.5, 0.8, 1 / 3])
    expected = (1 - chance_of_real) / chance_of_real
    torch.testing.assert_close(density_ratio(chance_of_real.logit()), expected)
    extreme = torch.tensor([500.0, -500.0, torch.inf, -torch.inf])
    assert density_ratio(extreme).tolist() == pytest.approx([LEAST, MOST, LEAST, MOST])
    assert density_ratio(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32


def test_the_coefficient_of_jensen_and_shannon_is_within_0_and_1():
    weights = COEFFICIENTS["jensen_shannon"](density_ratio(torch.linspace(-9, 9, 50)))
    assert 0 < weights.min() < weights.max() < 1


@pytest.mark.parametrize("kind", KINDS)
def test_samples_count_1_on_average(kind):
    logits = torch.linspace(-3, 3, 8)
    factors, mean, share = sample_factors(kind, logits)
    assert factors.mean().item() == pytest.approx(1)
    torch.testing.assert_close(factors * mean, COEFFICIENTS[kind](density_ratio(logits)))
    assert 0 < share < 1
    likelier = factors.diff() * (1 if kind == "neyman" else -1)  # the first look generated
    assert (likelier <= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_samples_that_look_alike_count_alike(kind):
    factors, _, share = sample_factors(kind, torch.full((8,), 0.25))
    assert factors.tolist() == pytest.approx([1] * 8)
    assert share.item() == pytest.approx(1)


def test_the_mean_is_that_of_all_ranks(monkeypatch):
    monkeypatch.setattr(bregman, "mean_over_ranks", lambda numbers: [2 * n for n in numbers])
    factors, _, share = sample_factors("neyman", torch.zeros(4))
    assert factors.tolist() == [0.5] * 4
    assert share == 2


@pytest.mark.parametrize(
    ("kind", "relax"),
    [("neyman", "soft"), ("forward_kl", "gumbel_st"), ("jensen_shannon", "reinforce")],
)
def test_a_samples_gradient_is_multiplied_by_its_factor(teacher, kind, relax):
    found = {}
    for each in (kind, "reverse_kl"):
        run = refinement(teacher, each, relax={"kind": relax})
        generation = run.generate(0)
        run.student_update.soft_gradient(generation)
        slots = torch.ones(4, 64, 1, dtype=torch.bool)
        found[each] = run.student_update.sample_weights(generation.hidden, None, slots)
    factors, _, _ = sample_factors(kind, run.losses.objectives[0].fake_logits)
    torch.testing.assert_close(found[kind], found["reverse_kl"] * factors)
    assert factors.unique().numel() > 1


def test_the_reverse_kl_is_left_as_it_is(teacher):
    """h = r log r: nothing is computed, and nothing changes by a bit."""
    run = refinement(teacher, "reverse_kl")
    values = run.step(0, measure=True).values
    weights = torch.rand(4)
    assert run.losses.weigh(weights) is weights
    assert not set(WEIGHED) & set(values)


def test_it_costs_no_look_of_the_discriminator(teacher):
    looks = []
    for kind in ("reverse_kl", "neyman"):
        run, seen = refinement(teacher, kind), []
        discriminator = run.losses.objectives[0].discriminator
        discriminator.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        run.step(0)
        looks.append(len(seen))
    assert looks == [2, 2]  # as it judges the student, and as it learns


def test_what_samples_count_is_logged(teacher):
    run = refinement(teacher, "neyman")
    run.step(0)
    values = run.step(1, measure=True).values
    assert LEAST <= values["bregman_weight"] <= MOST
    assert 0 < values["bregman_effective_share"] <= 1


def test_before_the_adversarial_loss_starts_all_count_alike(teacher):
    steps = {}
    for kind in ("reverse_kl", "jensen_shannon"):
        run, kept = refinement(teacher, kind, start=2), []
        for step in range(3):
            report = run.step(step, measure=True)
            kept.append((snapshot(run.student), set(WEIGHED) <= set(report.values)))
        steps[kind] = kept
    same = [
        all(torch.equal(one[name], two[name]) for name in one)
        for (one, _), (two, _) in zip(*steps.values(), strict=True)
    ]
    assert same == [True, True, False]
    assert [logged for _, logged in steps["jensen_shannon"]] == [False, False, True]


def test_there_is_nothing_to_keep_in_a_checkpoint(teacher):
    weighed, plain = (refinement(teacher, kind) for kind in ("neyman", "reverse_kl"))
    for run in (weighed, plain):
        run.step(0)
    assert weighed.state().keys() == plain.state().keys()
    assert weighed.networks().keys() == plain.networks().keys()


def test_a_run_says_by_what_it_weighs():
    loss = {"divergence": {"kind": "rkl"}}
    told = refine_spec(gan={**GAN, "bregman": "neyman"}, loss=loss).method
    assert told == "Soft-Di[M]O (Di[M]O, GAN weight 1.0, Di-Bregman neyman)"
    assert "Bregman" not in refine_spec(gan=GAN, loss=loss).method


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ({"gan": {"enabled": False}, "reward": {"terms": {"clip": 1.0}}}, "no discriminator"),
        ({"distill_weight": 0.0}, "distill_weight is 0"),
        ({"loss": {"divergence": {"kind": "fkl"}}}, "`loss.divergence` is fkl, not rkl"),
        ({"objectives": [{"kind": "dmmd"}]}, "`objectives` names dmmd"),
        ({"loss": {"divergence": {"kind": "rkl"}, "revealed_credit": 0.5}}, "revealed_credit is 0"),
        ({"train": {"micro_batch": 1}}, "a pass has one"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_where_there_is_nothing_to_weigh_by_it_is_refused(groups, reason):
    whole = {"gan": {}, "loss": {"divergence": {"kind": "rkl"}}, **groups}
    whole["gan"] = {"enabled": True, "bregman": "forward_kl", **whole["gan"]}
    with pytest.raises(ValueError, match=r"gan\.bregman is forward_kl, but") as caught:
        refine_spec(**whole)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("groups", "what"),
    [
        ({"gan": GAN, "relax": {"kind": "reinforce"}}, r"relax\.kind is reinforce"),
        ({"gan": GAN, "objectives": ["fpd"]}, "`objectives` names fpd"),
    ],
)
def test_passes_of_one_sample_are_refused_where_samples_are_compared(groups, what):
    with pytest.raises(ValueError, match=f"{what}, but samples of a pass are compared"):
        refine_spec(**groups, train={"micro_batch": 1})
    assert refine_spec(**groups, train={"micro_batch": 2}).least_pass == 2


def test_with_idlm_the_divergence_of_dimo_does_not_matter():
    refine_spec(gan={**GAN, "bregman": "neyman"}, objectives=[{"kind": "idlm"}])
