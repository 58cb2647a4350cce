"""KID against clean-fid's and torch-fidelity's numbers."""

import re

import numpy as np
import pytest
import torch

from dimo_cli.data.arrays import Batch
from dimo_cli.errors import SpecError
from dimo_cli.metrics import kernel
from dimo_cli.metrics.kernel import Kid, Subsets, kernel_distance
from dimo_cli.metrics.manifold import FeatureBank
from dimo_cli.metrics.protocol import Features


@pytest.fixture
def sets(golden):
    data = golden("metrics/io.safetensors")
    return data["real"], data["fake"]


def test_the_draws_are_those_of_clean_fid(golden, sets):
    expected = golden("metrics/expected.json")["kid"]
    cases = {name: re.match(r"cleanfid_seed(\d+)_subsets(\d+)_max(\d+)", name) for name in expected}
    assert sum(map(bool, cases.values())) >= 3
    for name, case in cases.items():
        if case:
            seed, count, size = map(int, case.groups())
            found = kernel_distance(*sets, Subsets(count, size, seed)).mean
            exactly = 1e-9 if name.endswith("float64") else 1e-5
            assert found == pytest.approx(expected[name], rel=exactly), name
    assert Subsets() == Subsets(count=100, size=1000, seed=0, convention="clean-fid")


def test_the_draws_are_those_of_torch_fidelity(golden, sets):
    pattern = re.compile(r"torch_fidelity_seed(\d+)_subsets(\d+)_size(\d+)")
    cases = [
        (pattern.match(name), values)
        for name, values in golden("metrics/expected.json")["kid"].items()
        if pattern.match(name)
    ]
    assert cases
    for case, values in cases:
        seed, count, size = map(int, case.groups())
        found = kernel_distance(*sets, Subsets(count, size, seed, "torch-fidelity"))
        assert (found.mean, found.std) == pytest.approx((values["mean"], values["std"]), rel=1e-5)


def test_one_subset_of_everything_is_the_unbiased_distance(golden, sets):
    expected = golden("metrics/expected.json")["kid"]
    rows = expected["full_unbiased_first_m_rows_m"]
    real, fake = (features[:rows] for features in sets)
    found = kernel_distance(real, fake, Subsets(1, rows))
    assert found.mean == pytest.approx(expected["full_unbiased_first_m_rows"], rel=1e-9)
    assert found.std == 0


def test_clean_fid_itself_gives_the_same(sets):
    cleanfid = pytest.importorskip("cleanfid.fid")
    np.random.seed(7)
    real, fake = (features.double().numpy() for features in sets)
    reference = cleanfid.kernel_distance(real, fake, num_subsets=5, max_subset_size=50)
    found = kernel_distance(*sets, Subsets(5, 50, seed=7))
    assert found.mean == pytest.approx(reference, rel=1e-9)


def test_keeping_the_whole_kernel_changes_nothing(sets, monkeypatch):
    kept = kernel_distance(*sets, Subsets(20, 200))
    monkeypatch.setattr(kernel, "WHOLE_BYTES", 0)
    anew = kernel_distance(*sets, Subsets(20, 200))
    assert (kept.mean, kept.std) == pytest.approx((anew.mean, anew.std), rel=1e-10)


def test_a_seed_fixes_the_draws_and_leaves_the_global_generator_alone(sets):
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    first, second, other = (kernel_distance(*sets, Subsets(3, 30, s)).mean for s in (1, 1, 2))
    assert first == second != other
    assert (np.random.get_state()[1] == before).all()


def test_sets_too_small_for_a_convention_are_refused(sets):
    real, fake = sets
    with pytest.raises(
        SpecError, match="At least 1000 real images are needed here, but there are 9"
    ):
        kernel_distance(real[:9], fake, Subsets(convention="torch-fidelity"))
    with pytest.raises(SpecError, match="At least 2 fake images are needed here, but there are 1"):
        kernel_distance(real, fake[:1])


def test_other_features_and_nan_are_refused(sets):
    real, fake = sets
    with pytest.raises(SpecError, match="cannot be compared"):
        kernel_distance(real, fake[:, :5])
    spoiled = fake.clone()
    spoiled[3, 2] = float("nan")
    with pytest.raises(SpecError, match=f"1 of {len(fake)} images"):
        kernel_distance(real, spoiled)


def test_the_metric_tells_its_protocol(sets):
    real, fake = sets
    metric = Kid(real, FeatureBank(*fake.shape), Subsets(10, 100))
    for first in range(0, len(fake), 64):
        part = fake[first : first + 64]
        metric.add(Features(part), Batch(torch.zeros(len(part), 3, 1, 1), first))
    metric.reduce()
    (result,) = metric.results()
    assert result.metric == f"kid{len(fake)}"
    assert result.value == kernel_distance(real, fake, Subsets(10, 100)).mean
    assert result.details["std"] > 0
    assert result.protocol["subset_size"] == 100
    assert result.protocol["draws"] == "clean-fid"
