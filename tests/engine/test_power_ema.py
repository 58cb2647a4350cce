"""Averages of any length, out of snapshots of two."""

import pytest
import torch

from dimo_cli.engine.power_ema import (
    Profile,
    exponent_of,
    length_of,
    mixture,
    overlap,
    power_decay,
)

KEPT = (0.05, 0.1)


@pytest.mark.parametrize("length", [0.01, 0.05, 0.1, 0.28])
def test_an_exponent_has_the_length_that_it_was_asked_for(length):
    gamma = exponent_of(length)
    tau = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000
    weight = tau**gamma / (tau**gamma).sum()
    mean = (weight * tau).sum()
    spread = (weight * (tau - mean) ** 2).sum().sqrt()
    assert spread.item() == pytest.approx(length, rel=1e-6)
    assert length_of(gamma) == pytest.approx(length, rel=1e-12)


def test_the_decays_weigh_each_step_as_the_profile_does():
    gamma, last = exponent_of(0.1), 50
    weights = []
    for step in range(1, last + 1):
        decay = power_decay(gamma, step)
        weights = [weight * decay for weight in weights] + [1 - decay]
    formula = [
        (step ** (gamma + 1) - (step - 1) ** (gamma + 1)) / last ** (gamma + 1)
        for step in range(1, last + 1)
    ]
    assert weights == pytest.approx(formula, abs=1e-12)
    assert sum(weights) == pytest.approx(1)


def test_the_overlap_of_two_profiles_is_the_integral_of_their_product():
    one, other = Profile(16.97, 300), Profile(6.94, 400)
    tau = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 1000
    first = torch.where(tau <= 300, (one.gamma + 1) * (tau / 300) ** one.gamma / 300, 0)
    second = (other.gamma + 1) * (tau / 400) ** other.gamma / 400
    assert overlap(one, other) == pytest.approx((first * second).sum().item() / 1000, rel=1e-5)
    assert overlap(other, one) == overlap(one, other)


def walk(steps, every, lengths):
    """Weights that drift and shake, every one of these averages of them, and two's snapshots."""
    draws = torch.Generator().manual_seed(0)
    weights = torch.zeros(50)
    averages = {length: weights.clone() for length in lengths}
    kept, snapshots = [], []
    for step in range(1, steps + 1):
        weights = weights + 0.001 + 0.01 * torch.randn(50, generator=draws)
        for length, average in averages.items():
            average.lerp_(weights, 1 - power_decay(exponent_of(length), step))
        if step % every == 0:
            kept += [Profile(exponent_of(length), step) for length in KEPT]
            snapshots += [averages[length].clone() for length in KEPT]
    return averages, kept, torch.stack(snapshots).double()


def test_a_length_that_was_kept_comes_back_to_the_last_digits():
    averages, kept, snapshots = walk(200, 20, KEPT)
    for length in KEPT:
        made = mixture(kept, Profile(exponent_of(length), 200))
        assert made.error < 1e-6
        assert (made.shares @ snapshots - averages[length]).abs().max() < 1e-6


@pytest.mark.parametrize("length", [0.03, 0.07, 0.15, 0.2])
def test_another_length_is_within_two_percent_of_one_that_was_truly_kept(length):
    averages, kept, snapshots = walk(400, 25, (*KEPT, length))
    made = mixture(kept, Profile(exponent_of(length), 400))
    truly = averages[length].double()
    assert (made.shares @ snapshots - truly).norm() < 0.02 * truly.norm()
    assert made.error < 0.05


def test_weights_that_never_moved_stay_what_they_are():
    _, kept, _ = walk(400, 100, KEPT)
    for length in (0.02, 0.28):
        assert mixture(kept, Profile(exponent_of(length), 400)).shares.sum().item() == (
            pytest.approx(1, abs=1e-9)
        )


def test_few_snapshots_leave_a_larger_error():
    few, many = (
        mixture(
            [Profile(exponent_of(length), step) for step in steps for length in KEPT],
            Profile(exponent_of(0.02), 400),
        ).error
        for steps in ((200, 400), range(20, 401, 20))
    )
    assert many < 0.1 < few
