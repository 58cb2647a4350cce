"""Images that take more than one pass."""

import weakref

import numpy as np
import pytest
import torch

from dimo_cli.sampling import samplers
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.target import Target

SPEC = SamplerSpec(teacher=True, steps=2, seed=3)


@pytest.fixture
def two_at_once(monkeypatch):
    monkeypatch.setattr(samplers, "images_at_once", lambda teacher: 2)


def test_bytes_are_those_of_all_images_rounded_at_once(teacher, two_at_once):
    target, counted = Target(teacher), []
    pixels, told = samplers.sample_images(target, [7, 1, 3, 3, 0], SPEC, counted.append)
    images, protocol = samplers.draw_images(target, [7, 1, 3, 3, 0], SPEC)
    assert np.array_equal(pixels, samplers.to_pixels(images))
    assert told == protocol
    assert counted == [2, 2, 1]


def test_a_batch_is_bytes_before_the_next_but_one_is_drawn(teacher, two_at_once, monkeypatch):
    drawn, alive = [], []

    def sampler(cond, generator):
        alive.append(sum(one() is not None for one in drawn))
        images = torch.zeros(len(cond), 3, 8, 8)
        drawn.append(weakref.ref(images))
        return images

    monkeypatch.setattr(samplers, "build_sampler", lambda *asked: (sampler, {}))
    samplers.sample_images(Target(teacher), [1] * 12, SPEC)
    assert len(alive) == 6
    assert max(alive) <= 1
