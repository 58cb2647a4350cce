"""Frechet distance against the reference implementations' numbers."""

import numpy as np
import pytest
import torch

from dimo_cli.metrics.fid import FidMeter, label_batches, metric_name
from dimo_cli.metrics.frechet import Gaussian, RunningGaussian, frechet_distance
from dimo_cli.samplers import teacher_sampler
from dimo_cli.specs.sample import SamplerSpec


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
    distance = frechet_distance(gaussian_of(data["real"]), gaussian_of(data["fake"][:40]))
    assert distance == pytest.approx(expected["frechet_rank_deficient"]["value_eigvals"], rel=1e-3)


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


def test_a_fid_is_named_after_its_sample_count():
    assert metric_name(5000) == "fid5k"
    assert metric_name(2500) == "fid2500"


def test_labels_are_spread_evenly():
    labels = torch.cat(list(label_batches(1003, 10)))
    counts = torch.bincount(labels)
    assert len(labels) == 1003
    assert counts.max() - counts.min() <= 1


def test_a_score_carries_its_protocol_and_repeats_exactly(teacher):
    meter = FidMeter(teacher)
    sampler, protocol = teacher_sampler(teacher, SamplerSpec(teacher=True, steps=2))
    first, second = (
        meter.measure(sampler, images=300, seed=1, protocol=protocol) for _ in range(2)
    )
    assert first.value == second.value
    assert first.metric == "fid300"
    assert first.sampler["steps"] == 2
    assert len(first.features_sha256) == len(first.reference_sha256) == 16


def test_real_images_are_near_the_reference_and_noise_is_far(teacher):
    from dimo_cli.teachers.digits import training_tokens

    meter = FidMeter(teacher)
    tokens, labels = training_tokens()
    real = gaussian_of(meter.network(teacher.tokenizer.decode(tokens))[0])
    assert frechet_distance(real, meter.reference) < 1e-3
    noise = torch.randint(17, (2000, 64, 1), generator=torch.Generator().manual_seed(0))
    fake = gaussian_of(meter.network(teacher.tokenizer.decode(noise))[0])
    assert frechet_distance(fake, meter.reference) > 20
    accuracy = (meter.network(teacher.tokenizer.decode(tokens))[1].argmax(-1) == labels).float()
    assert accuracy.mean() > 0.99
