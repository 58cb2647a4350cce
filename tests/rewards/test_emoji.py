"""The rewards of `emoji` prefer what was asked for, and what is whole."""

import pytest
import torch

from dimo_cli.hub.store import HubStore
from dimo_cli.rewards.registry import blank_reward, load_reward
from dimo_cli.teachers.emoji.world import STYLES, things
from tests.metrics.test_emoji import drawn  # noqa: F401

NAMES = ("emoji_clip", "emoji_preference")


@pytest.fixture(params=NAMES)
def reward(request):
    return load_reward(request.param, HubStore())


def captions(looks, **changed):
    """One plain caption of each look, with these words in the place of the true ones."""
    return [
        f"{changed.get('style') or look.style}-style {things()[look.thing].names[0]} on "
        f"{look.background}"
        for look in looks
    ]


def scores(reward, pictures, prompts):
    """The scores of pictures of bytes."""
    return reward(pictures.float() / 127.5 - 1, reward.prepare(prompts))


def test_the_card_counts_every_parameter(reward):
    assert sum(p.numel() for p in reward.network.parameters()) == reward.card.parameters
    assert {n: p.shape for n, p in blank_reward(reward.name).network.named_parameters()} == {
        n: p.shape for n, p in reward.network.named_parameters()
    }


def test_a_picture_is_preferred_with_its_own_words(reward, drawn):  # noqa: F811
    pictures, looks = drawn
    own, other = captions(looks), captions(looks[1:] + looks[:1])
    better = scores(reward, pictures, own) > scores(reward, pictures, other)
    assert better.float().mean() >= 0.9


def test_the_style_that_was_asked_for_is_preferred(reward, drawn):  # noqa: F811
    pictures, looks = drawn
    own = scores(reward, pictures, captions(looks))
    wrong = [captions([look], style=STYLES[look.style == STYLES[0]])[0] for look in looks]
    assert (own > scores(reward, pictures, wrong)).float().mean() >= 0.8


def test_a_whole_picture_is_preferred_to_one_that_is_half_another(drawn):  # noqa: F811
    pictures, looks = drawn
    reward = load_reward("emoji_preference", HubStore())
    half = pictures.clone()
    half[:, :, :, 16:] = pictures.roll(1, 0)[:, :, :, 16:]
    whole, broken = (scores(reward, images, captions(looks)) for images in (pictures, half))
    assert (whole > broken).float().mean() >= 0.9


def test_scores_have_a_gradient_to_every_picture(reward, drawn):  # noqa: F811
    pictures, looks = drawn
    images = (pictures[:4].float() / 127.5 - 1).requires_grad_()
    reward(images, reward.prepare(captions(looks[:4]))).sum().backward()
    assert (images.grad.flatten(1).norm(dim=1) > 0).all()


def test_the_judges_are_other_networks_than_the_reader_of_the_benchmark():
    shapes = [
        {tuple(p.shape) for p in network.parameters() if p.dim() == 4}
        for network in (load_reward(name, HubStore()).network for name in NAMES)
    ]
    assert not shapes[0] & shapes[1]
    assert all(torch.Size(s) for part in shapes for s in part)
