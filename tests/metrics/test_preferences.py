"""Preference scores: any reward as a metric, and HPSv2 by the convention of its benchmark."""

import numpy as np
import pytest
import torch

from dimo_cli.data.arrays import Batch
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.hub.published import Published
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.preferences import (
    CHUNK,
    HpsBenchmark,
    RewardScore,
    chunked,
    load_reward_score,
)
from dimo_cli.metrics.prompts import STYLES, PromptSet, numbered
from dimo_cli.rewards.protocol import Reward, RewardCard
from dimo_cli.rewards.registry import load_reward
from tests.rewards.test_loading import PUBLISH, SIZES

PROMPTS = ("a cat", "two dogs in the rain", "a cat")
HPS_PROMPTS = PromptSet(
    "hpsv2",
    tuple(f"{style} {n}" for style in STYLES for n in range(800)),
    tuple(style for style in STYLES for _ in range(800)),
    tuple(key for style in STYLES for key in numbered(800, f"{style}/")),
)


class Fake(Reward):
    """A reward whose score is the red of the first pixel, as a share of white."""

    def __init__(self, name):
        card = RewardCard(name, "", "0 to 1", "", Published(()), 0)
        super().__init__(card, torch.nn.Linear(1, 1), 1)

    def encode(self, prompts):
        return {"length": torch.tensor([float(len(prompt)) for prompt in prompts])}

    def forward(self, images, text):
        return (images[:, 0, 0, 0] + 1) / 2

    def score(self, pixels, text):
        raise AssertionError("forward is all there is")


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, 3, 20, 24), generator=generator, dtype=torch.uint8)


def measure(metric, images, prompts, size=2):
    for first in range(0, len(images), size):
        part = slice(first, first + size)
        metric.add(None, Batch(images[part], first, prompts[part]))
    return metric.results()


@pytest.mark.parametrize("name", PUBLISH)
def test_every_reward_is_a_metric_by_its_name(fake_hub, images, name):
    PUBLISH[name](fake_hub)
    metric = load_reward_score(name, HubStore(), sizes=SIZES.get(name))
    (result,) = measure(metric, images, PROMPTS)
    reward = metric.reward
    with torch.no_grad():
        scores = reward(images / 127.5 - 1, reward.prepare(PROMPTS)).double()
    factor = 100 if name.startswith("hps") else 1
    assert result.metric == name
    assert result.value == pytest.approx(factor * float(scores.mean()), abs=1e-4)
    error = factor * float(scores.std()) / 3**0.5
    assert result.details["standard_error"] == pytest.approx(error, abs=1e-4)
    assert len(result.protocol["network_sha256"]) == 64
    assert result.protocol["antialias"] is True
    assert result.protocol["images"] == 3


@pytest.mark.parametrize("name", ["shapes_clip", "shapes_preference"])
def test_the_rewards_of_shapes_are_metrics(name):
    reward = load_reward(name, HubStore())
    pictures = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    prompts = ("a red circle", "two blue squares", "a triangle", "a red circle")
    (result,) = measure(RewardScore(reward, "0" * 64), pictures, prompts)
    with torch.no_grad():
        scores = reward(pictures / 127.5 - 1, reward.prepare(prompts))
    assert result.value == pytest.approx(float(scores.mean()), abs=1e-5)
    assert (result.metric, result.protocol["scale"]) == (name, reward.scale_note)


def test_the_switch_for_old_libraries_is_part_of_the_protocol(fake_hub, images):
    PUBLISH["hps_v2.0"](fake_hub)
    values = {}
    for antialias in (True, False):
        metric = load_reward_score("hps_v2.0", HubStore(), sizes=SIZES["hps_v2.0"])
        metric.reward.antialias = antialias
        (result,) = measure(metric, images, PROMPTS)
        values[result.protocol["antialias"]] = result.value
    assert abs(values[True] - values[False]) > 1e-4


def test_chunks_of_80_give_mean_and_spread(generator):
    values = torch.rand(800, generator=generator, dtype=torch.float64)
    means = [np.mean(values.tolist()[start : start + CHUNK]) for start in range(0, 800, CHUNK)]
    assert chunked(values) == pytest.approx((np.mean(means), np.std(means)))


def benchmark_images():
    """An image for each prompt of the benchmark; each style and each chunk has its own red."""
    style, number = np.divmod(np.arange(3200), 800)
    red = 40 * style + 2 * (number // CHUNK)
    images = torch.zeros(3200, 3, 1, 1, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.from_numpy(red)
    return images


@pytest.mark.parametrize("name", ["hps_v2.0", "hps_v2.1"])
def test_the_benchmark_has_four_styles_and_their_mean(name):
    metric = HpsBenchmark(Fake(name), "0" * 64, HPS_PROMPTS)
    overall, *styles = measure(metric, benchmark_images(), HPS_PROMPTS.prompts, size=500)
    assert overall.metric == name
    assert [result.metric for result in styles] == [f"{name}_{style}" for style in STYLES]
    for number, result in enumerate(styles):
        chunks = 100 * (40 * number + 2 * np.arange(10)) / 255
        assert result.value == pytest.approx(chunks.mean(), abs=1e-4)
        assert result.details["spread"] == pytest.approx(np.std(chunks), abs=1e-4)
        assert overall.details["styles"][STYLES[number]] == result.value
    assert overall.value == pytest.approx(np.mean([result.value for result in styles]), abs=1e-9)
    assert overall.protocol["prompt_set_sha256"] == HPS_PROMPTS.sha256
    assert overall.protocol["scale"] == "100 x cosine"


def test_the_benchmark_is_chosen_by_the_prompts(fake_hub):
    PUBLISH["hps_v2.1"](fake_hub)
    store, sizes = HubStore(), SIZES["hps_v2.1"]
    metric = load_reward_score("hps_v2.1", store, prompts=HPS_PROMPTS, sizes=sizes)
    assert isinstance(metric, HpsBenchmark)
    others = PromptSet("coco-30k", HPS_PROMPTS.prompts)
    metric = load_reward_score("hps_v2.1", store, prompts=others, sizes=sizes)
    assert not isinstance(metric, HpsBenchmark)


def test_both_versions_are_never_mixed():
    results = [
        measure(HpsBenchmark(Fake(name), hash, HPS_PROMPTS), images, HPS_PROMPTS.prompts, 3200)[0]
        for images in [benchmark_images()]
        for name, hash in (("hps_v2.0", "a"), ("hps_v2.1", "b"))
    ]
    assert results[0].metric != results[1].metric
    assert results[0].protocol != results[1].protocol


def test_a_part_of_the_benchmark_is_no_benchmark():
    metric = HpsBenchmark(Fake("hps_v2.1"), "0" * 64, HPS_PROMPTS)
    with pytest.raises(SpecError, match="3,200 prompts, not 3,199 images"):
        measure(metric, benchmark_images()[:-1], HPS_PROMPTS.prompts[:-1], size=1000)


def test_images_in_another_order_are_refused():
    metric = HpsBenchmark(Fake("hps_v2.1"), "0" * 64, HPS_PROMPTS)
    with pytest.raises(SpecError, match="Prompt 0 of `hpsv2` is 'anime 0', but image 0"):
        measure(metric, benchmark_images(), HPS_PROMPTS.prompts[::-1], size=10)


@pytest.mark.parametrize(
    ("name", "prompts", "match"),
    [
        ("pickscore", HPS_PROMPTS, "not of pickscore on `hpsv2`"),
        ("hps_v2.1", PromptSet("coco-30k", ("a",)), "not of hps_v2.1 on `coco-30k`"),
    ],
)
def test_the_benchmark_is_of_hps_on_its_prompts(name, prompts, match):
    with pytest.raises(SpecError, match=match):
        HpsBenchmark(Fake(name), "0" * 64, prompts)


def test_an_unknown_reward_is_refused():
    with pytest.raises(SpecError, match="not a known reward"):
        load_reward_score("hps", HubStore())


def test_a_reward_that_is_nowhere_is_named(tmp_path):
    with pytest.raises(MissingError, match=r"HPS_v2\.1_compressed"):
        load_reward_score("hps_v2.1", HubStore(local_dir=tmp_path), sizes=SIZES["hps_v2.1"])


def test_images_without_prompts_are_refused(images):
    with pytest.raises(SpecError, match="these images have none"):
        RewardScore(Fake("pickscore"), "0" * 64).add(None, Batch(images))
