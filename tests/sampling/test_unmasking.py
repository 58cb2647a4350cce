"""A teacher's steps as pictures."""

import numpy as np
import pytest
import torch

from dimo_cli.sampling.samplers import sample_images
from dimo_cli.sampling.unmasking import sample_with_steps, start_of, veiled
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.target import Target

GRAY = 128


def test_masked_tokens_are_gray_where_they_stand():
    masked = torch.tensor([[[True], [False], [False], [True]]])
    picture = veiled(torch.ones(1, 3, 4, 4), masked, (2, 2))[0, :, :, 0]
    assert picture[:2, :2].tolist() == picture[2:, 2:].tolist() == [[GRAY] * 2] * 2
    assert picture[:2, 2:].tolist() == picture[2:, :2].tolist() == [[255] * 2] * 2


def test_tokens_without_a_place_veil_the_whole_picture_by_their_share():
    masked = torch.tensor([[[True], [False], [False], [True]]])
    picture = veiled(torch.ones(1, 3, 4, 4), masked, None)
    assert np.unique(picture).tolist() == [191]
    assert np.unique(start_of(picture)).tolist() == [GRAY]


@pytest.mark.parametrize("steps", [1, 5])
def test_steps_that_are_watched_end_in_what_is_drawn_without(teacher, steps):
    spec = SamplerSpec(teacher=True, steps=steps, seed=3)
    film, protocol = sample_with_steps(Target(teacher), [7, 1], spec)
    plain, told = sample_images(Target(teacher), [7, 1], spec)
    assert len(film) == steps
    assert np.array_equal(film[-1], plain)
    assert protocol == told


def test_no_more_is_masked_after_a_step_than_before(teacher):
    film, _ = sample_with_steps(Target(teacher), [7], SamplerSpec(teacher=True, steps=6))
    shown = [int((frame != GRAY).any(-1).sum()) for frame in film]
    assert shown == sorted(shown)
    assert shown[0] < shown[-1]
