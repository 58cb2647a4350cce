"""Precision, recall, density and coverage: golden values, ties, blocks and their memory."""

import subprocess
import sys
from dataclasses import asdict

import pytest
import torch

from dimo_cli.data.arrays import Batch
from dimo_cli.errors import SpecError
from dimo_cli.metrics.manifold import (
    BLOCK_BUDGET,
    FeatureBank,
    PrecisionRecall,
    bank_bytes,
    block_rows,
    compare_manifolds,
    manifold_bytes,
    short_count,
)
from dimo_cli.metrics.protocol import Features

NAMES = ("precision", "recall", "density", "coverage")


@pytest.fixture
def sets(golden):
    data = golden("metrics/io.safetensors")
    return data["real"], data["fake"]


@pytest.fixture
def ties(golden):
    data = golden("metrics/io.safetensors")
    return data["ties_real"], data["ties_fake"]


def in_full(real, fake, k, closed=False):
    """The definitions, on whole matrices of differences."""

    def squares(x, y):
        return torch.stack([(row - y.double()).square().sum(1) for row in x.double()])

    def radii(x):
        return squares(x, x).fill_diagonal_(torch.inf).kthvalue(k).values

    inside = torch.le if closed else torch.lt
    cross = squares(real, fake)
    in_real = inside(cross, radii(real)[:, None])
    return {
        "precision": in_real.any(0).double().mean().item(),
        "recall": inside(cross, radii(fake)[None]).any(1).double().mean().item(),
        "density": in_real.sum().item() / k / len(fake),
        "coverage": in_real.any(1).double().mean().item(),
    }


def matches(found, expected):
    values = asdict(found)
    return {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("closed", [False, True])
def test_numbers_are_those_of_prdc_and_adm(golden, sets, closed):
    expected = golden("metrics/expected.json")
    neighbors = [int(name[6:]) for name in expected if name.startswith("prdc_k")]
    assert len(neighbors) >= 2
    for k in neighbors:
        found = compare_manifolds(*sets, k=k, closed=closed)
        assert matches(found, expected[f"prdc_k{k}"])
        assert matches(found, expected[f"adm_pr_k{k}_float64"])
        for name, value in expected[f"torch_fidelity_pr_k{k}"].items():
            assert getattr(found, name) == pytest.approx(value, abs=1e-6)


def test_ties_are_inside_closed_balls_and_outside_open_ones(golden, ties):
    expected = golden("metrics/expected.json")["ties"]
    conventions = {"prdc": False, "exact_strict": False, "adm": True, "exact_nonstrict": True}
    cases = [name.rpartition("_k") for name in expected if name != "note"]
    assert {convention for convention, _, _ in cases} == set(conventions)
    for convention, _, k in cases:
        found = compare_manifolds(*ties, k=int(k), closed=conventions[convention])
        assert matches(found, expected[f"{convention}_k{k}"])


@pytest.mark.parametrize("closed", [False, True])
def test_blocks_of_any_size_give_the_same(sets, ties, closed):
    for real, fake in (sets, ties):
        whole = compare_manifolds(real, fake, k=3, closed=closed)
        for budget in (30_000, 120_000):
            assert block_rows(real.shape[1], len(real), budget) < len(real)
            parts = compare_manifolds(real, fake, k=3, closed=closed, budget=budget)
            assert parts == whole
        assert asdict(whole) == pytest.approx(in_full(real, fake, 3, closed), abs=1e-12)


@pytest.mark.parametrize("closed", [False, True])
def test_copies_of_real_images_tie_exactly_with_radii(generator, closed):
    # Every radius is also a distance to a copy, so rounding in a product would break the ties;
    # the common offset costs it many digits.
    real = torch.randn(150, 40, generator=generator) + 1000
    real = torch.cat([real, real[:30], real[:20]])
    fake = real[torch.randperm(200, generator=generator)[:120]]
    expected = in_full(real, fake, 3, closed)
    for budget in (BLOCK_BUDGET, 40_000):
        found = compare_manifolds(real, fake, k=3, closed=closed, budget=budget)
        assert asdict(found) == pytest.approx(expected, abs=1e-12)


def test_what_lies_on_a_ball_ties_although_a_product_would_round(generator):
    # Pairs (a, b) far from each other, and c = 2a - b: as far from a as b is, to the last bit.
    # Digits of very different size make any product of matrices round.
    large, small = 1024 + torch.rand(80, 20, generator=generator) * 900, torch.ones(80, 20)
    a = torch.cat([large, small], 1).double()
    step = torch.randint(-3000, 3000, (80, 20), generator=generator)
    step = torch.cat([step * 2**-12, step * 2**-14], 1).double()
    a = (a * 2**12).round() * 2**-12
    pairs, mirrored = torch.cat([a, a - step]).float(), (a + step).float()
    assert torch.equal(mirrored.double(), a + step)
    for budget in (BLOCK_BUDGET, 40_000):
        opened, closed = (
            compare_manifolds(mirrored, pairs, k=1, closed=c, budget=budget) for c in (False, True)
        )
        assert (opened.recall, closed.recall) == (0, 1)
        opened, closed = (
            compare_manifolds(pairs, mirrored, k=1, closed=c, budget=budget) for c in (False, True)
        )
        assert (opened.precision, closed.precision) == (0, 1)


def test_near_neighbors_far_from_the_origin_are_not_lost(generator):
    # Differences of one unit in the last digit of float32: a float32 product sees only noise.
    start = torch.full((60, 16), 4096.0)
    real = start + torch.randint(8, start.shape, generator=generator) * 2**-11
    fake = start + torch.randint(8, start.shape, generator=generator) * 2**-11
    found = compare_manifolds(real, fake, k=3)
    assert asdict(found) == pytest.approx(in_full(real, fake, 3), abs=1e-12)


def test_a_collapsed_generator_covers_one_image_at_most(generator):
    real = torch.randn(200, 8, generator=generator)
    fake = real[:1].repeat(300, 1)
    found = compare_manifolds(real, fake, k=3, closed=True)
    assert found.precision == 1
    assert found.recall == 1 / 200
    assert found.coverage < 0.1
    assert compare_manifolds(real, fake, k=3).recall == 0


def test_order_of_the_arguments_matters(sets):
    real, fake = sets
    there, back = compare_manifolds(real, fake), compare_manifolds(fake, real)
    assert (there.precision, there.recall) == (back.recall, back.precision)


def test_the_default_blocks_keep_50000_images_below_4_gb():
    assert manifold_bytes(50_000, 50_000, 2048) < 2.2e9
    assert manifold_bytes(50_000, 50_000, 2048, budget=1 << 29) < manifold_bytes(
        50_000, 50_000, 2048
    )


MEASURE = """
import resource, torch
from dimo_cli.metrics.manifold import compare_manifolds
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
features = torch.randn(7000, 64, generator=generator)
compare_manifolds(features[:300], features[:300])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
compare_manifolds(features[:3500], features[3500:], budget={budget})
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_memory_stays_below_what_was_told():
    budget = 32 << 20
    script = MEASURE.format(budget=budget)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    told = manifold_bytes(3500, 3500, 64, budget=budget)
    assert int(done.stdout) < told < 3500 * 3500 * 8


def test_what_cannot_be_compared_is_refused(sets):
    real, fake = sets
    with pytest.raises(SpecError, match="At least 4 real images are needed here, but there are 3"):
        compare_manifolds(real[:3], fake)
    with pytest.raises(SpecError, match="At least 6 fake images"):
        compare_manifolds(real, fake[:5], k=5)
    with pytest.raises(SpecError, match="dimensions and fake ones of 9 cannot"):
        compare_manifolds(real, fake[:, :9])
    spoiled = real.clone()
    spoiled[:2, 0] = torch.inf
    with pytest.raises(SpecError, match=f"2 of {len(real)} images have features that are NaN"):
        compare_manifolds(spoiled, fake)
    with pytest.raises(SpecError, match="100 bytes are too few"):
        compare_manifolds(real, fake, budget=100)


def test_a_bank_is_in_order_of_the_images_and_takes_a_batch_once(generator):
    features = torch.randn(50, 4, generator=generator)
    bank = FeatureBank(50, 4)
    for first in (30, 0, 0, 10, 40, 20, 30):
        bank.add(features[first : first + 10].double(), first)
    bank.reduce()
    assert torch.equal(bank.features(), features)
    assert bank.features().dtype == torch.float32
    stored = bank.rows.nbytes + bank.seen.nbytes
    assert stored == bank_bytes(50, 4)


def test_a_bank_refuses_gaps_surplus_and_nan():
    bank = FeatureBank(8, 2)
    bank.add(torch.zeros(5, 2), 0)
    with pytest.raises(ValueError, match="3 images without features"):
        bank.features()
    with pytest.raises(ValueError, match=r"images 5\.\.9 for a bank of 8"):
        bank.add(torch.zeros(4, 2), 5)
    with pytest.raises(SpecError, match="1 of 3 images"):
        bank.add(torch.tensor([[0, 1], [torch.nan, 0], [1, 1]]), 5)


def test_the_metric_shares_a_bank_and_names_its_neighbors(sets):
    real, fake = sets
    bank = FeatureBank(*fake.shape)
    metrics = [PrecisionRecall(real, bank), PrecisionRecall(real, bank, k=5, closed=True)]
    for first in range(0, len(fake), 50):
        part = fake[first : first + 50]
        for metric in metrics:
            metric.add(Features(part), Batch(torch.zeros(len(part), 3, 1, 1), first))
    for metric in metrics:
        metric.reduce()
    results = [result for metric in metrics for result in metric.results()]
    assert [result.metric for result in results] == [f"{n}_k{k}" for k in (3, 5) for n in NAMES]
    assert results[0].value == compare_manifolds(real, fake).precision
    assert results[4].protocol == {
        "images": len(fake),
        "reference_images": len(real),
        "k": 5,
        "comparison": "<=",
    }


def test_counts_are_short_where_they_are_round():
    assert [short_count(n) for n in (50_000, 2500, 0)] == ["50k", "2500", "0"]
