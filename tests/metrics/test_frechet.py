"""Frechet distance against the reference implementations' numbers."""

import math
import re

import numpy as np
import pytest
import scipy.linalg
import torch

from dimo_cli.errors import SpecError
from dimo_cli.metrics.frechet import Gaussian, RunningGaussian, frechet_distance


def gaussian_of(features, batch=64):
    running = RunningGaussian(features.shape[1])
    for part in features.split(batch):
        running.add(part)
    return running.gaussian()


def test_distance_is_that_of_clean_fid(golden):
    data, expected = golden("metrics/io.safetensors"), golden("metrics/expected.json")
    distance = frechet_distance(gaussian_of(data["real"]), gaussian_of(data["fake"]))
    assert distance == pytest.approx(expected["frechet"]["cleanfid"], rel=1e-6)


def test_fewer_samples_than_dimensions_still_give_the_reference_value(golden):
    data, expected = golden("metrics/io.safetensors"), golden("metrics/expected.json")
    expected = expected["frechet_rank_deficient"]
    rows = int(re.fullmatch(r"fake\[:(\d+)\]", expected["fake_rows"])[1])
    few = gaussian_of(data["fake"][:rows])
    assert few.rank_deficient
    distance = frechet_distance(gaussian_of(data["real"]), few)
    assert distance == pytest.approx(expected["value_eigvals"], rel=1e-3)


def test_float32_statistics_are_near_enough(golden):
    data, expected = golden("metrics/io.safetensors"), golden("metrics/expected.json")["frechet"]
    rounded = [
        Gaussian(g.mean.float(), g.covariance.float(), g.count)
        for g in (gaussian_of(data["real"]), gaussian_of(data["fake"]))
    ]
    distance = frechet_distance(*rounded)
    assert distance == pytest.approx(expected["cleanfid_from_float32_features"], rel=1e-4)


def test_both_sets_may_be_smaller_than_the_dimensions(golden):
    data = golden("metrics/io.safetensors")
    few, fewer = data["real"][:50], data["fake"][:30]
    # The nuclear norm of the centered features' product knows of no covariance.
    centered = [(x.double() - x.double().mean(0)) / math.sqrt(len(x) - 1) for x in (few, fewer)]
    a, b = gaussian_of(few), gaussian_of(fewer)
    cross = torch.linalg.svdvals(centered[0] @ centered[1].T).sum()
    shift = (a.mean - b.mean).square().sum()
    expected = float(shift + a.covariance.trace() + b.covariance.trace() - 2 * cross)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)
    assert abs(frechet_distance(b, b)) < 1e-9
    # Rounding that makes the covariances look regular does not count.
    unit = torch.eye(len(a.mean), dtype=torch.float64) * 4e-15
    shaken = [Gaussian(g.mean, g.covariance + g.covariance.max() * unit, g.count) for g in (a, b)]
    assert all(torch.linalg.cholesky_ex(g.covariance).info == 0 for g in shaken)
    assert frechet_distance(*shaken) == pytest.approx(expected, rel=1e-9)


def test_one_side_of_lower_rank_counts_the_same_from_both_sides(golden):
    data = golden("metrics/io.safetensors")
    a, b = gaussian_of(data["real"]), gaussian_of(data["fake"][:40])
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_dead_and_constant_features_are_no_obstacle(generator):
    features = torch.randn(200, 12, generator=generator)
    features[:, 3], features[:, 7] = 0, 5
    features[:, 9] = features[:, 8]
    other = torch.randn(200, 12, generator=generator) * 2
    a, b = gaussian_of(features), gaussian_of(other)
    root = scipy.linalg.sqrtm(a.covariance.numpy() + 1e-14 * np.eye(12))
    product = root.real @ b.covariance.numpy() @ root.real
    # Rounding leaves eigenvalues of the dead features on either side of zero.
    cross = np.sqrt(np.linalg.eigvalsh(product).clip(min=0)).sum()
    expected = (a.mean - b.mean).square().sum() + (a.covariance + b.covariance).trace() - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-6)
    still = gaussian_of(torch.ones(20, 3))
    assert frechet_distance(still, gaussian_of(torch.zeros(20, 3))) == pytest.approx(3)


def test_value_is_that_of_a_matrix_root(generator):
    mix = torch.randn(96, 96, generator=generator, dtype=torch.float64) / 10
    a = gaussian_of(torch.randn(900, 96, generator=generator).double() @ mix)
    b = gaussian_of(torch.randn(700, 96, generator=generator) * 0.8 + 0.1)
    root = scipy.linalg.sqrtm((a.covariance @ b.covariance).numpy())
    expected = (a.mean - b.mean).square().sum() + (a.covariance + b.covariance).trace()
    expected = float(expected) - 2 * np.trace(root).real
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_2048_dimensions_are_8_times_faster_than_a_matrix_root():
    from benchmarks.frechet import measure

    found = measure(dimensions=2048)
    assert found["ratio"] > 8
    assert found["relative_difference"] < 1e-9


def test_too_few_images_for_a_rank_are_told():
    features = torch.randn(9, 8)
    assert gaussian_of(features).warning is None
    small = gaussian_of(features[:8])
    assert small.rank_deficient
    assert "8 images cannot span 8 feature dimensions" in small.warning
    assert not Gaussian(small.mean, small.covariance, 0).rank_deficient, "count unknown"


def test_features_that_are_not_finite_are_refused_and_not_counted():
    features = torch.ones(10, 4)
    features[2, 1], features[7, 0], features[7, 1] = math.nan, math.inf, -math.inf
    running = RunningGaussian(4)
    with pytest.raises(SpecError, match="2 of 10 images have features that are NaN or infinite"):
        running.add(features)
    assert running.count == 0


def test_one_image_has_no_covariance():
    with pytest.raises(SpecError, match="at least 2 images, but there are 1"):
        gaussian_of(torch.ones(1, 4))


def test_a_reference_that_does_not_fit_is_refused():
    a, b = gaussian_of(torch.randn(20, 4)), gaussian_of(torch.randn(20, 5))
    with pytest.raises(SpecError, match="4 and of 5 dimensions cannot be compared"):
        frechet_distance(a, b)
    spoiled = Gaussian(b.mean, b.covariance * math.nan, 20)
    with pytest.raises(SpecError, match="NaN or infinite"):
        frechet_distance(spoiled, b)


def test_half_precision_features_are_summed_in_float64(generator):
    features = torch.randn(4000, 3, generator=generator).half() + 100
    found = gaussian_of(features)
    expected = np.cov(features.double().numpy(), rowvar=False)
    np.testing.assert_allclose(found.covariance.numpy(), expected, rtol=1e-8, atol=1e-9)


def test_equal_sets_have_no_distance(golden):
    real = gaussian_of(golden("metrics/io.safetensors")["real"])
    assert abs(frechet_distance(real, real)) < 1e-3


def test_running_sums_equal_mean_and_covariance_in_one_go(generator):
    features = torch.randn(500, 7, generator=generator) + 3
    found = gaussian_of(features, batch=33)
    array = features.double().numpy()
    np.testing.assert_allclose(found.mean.numpy(), array.mean(0), rtol=1e-10)
    np.testing.assert_allclose(found.covariance.numpy(), np.cov(array, rowvar=False), rtol=1e-9)


def test_two_normals_in_one_dimension():
    a = Gaussian(torch.tensor([0.0]).double(), torch.tensor([[4.0]]).double(), 10)
    b = Gaussian(torch.tensor([3.0]).double(), torch.tensor([[1.0]]).double(), 10)
    assert frechet_distance(a, b) == pytest.approx(9 + (2 - 1) ** 2)
