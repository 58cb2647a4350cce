"""CLIP score: the protocol of COCO-30K to the token and to the pixel, on networks of open_clip."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from dimo_cli.data.arrays import Batch
from dimo_cli.errors import DimoError, MissingError, SpecError
from dimo_cli.hub.loading import on_meta
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.clip_score import (
    CARD,
    LAION,
    clip_pixels,
    coco_square,
    load_clip_score,
    to_picture,
    with_prefix,
)
from dimo_cli.metrics.per_image import PerImage
from dimo_cli.rewards.clip_network import ClipNetwork, ClipSizes
from dimo_cli.rewards.networks import VisionSizes
from dimo_cli.teachers.clip_text import open_clip_tokens
from tests.helpers.published import pickled
from tests.rewards.test_loading import CLIP_SIZES, clip_config, publish_clip, publish_hps

PROMPTS = ("a cat", "two dogs in the rain", "a street with many cars and one very long sentence")


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randint(0, 256, (3, 3, 12, 10), generator=generator).float()
    large = torch.nn.functional.interpolate(coarse, (340, 301), mode="bilinear")
    return large.round().to(torch.uint8)


@pytest.fixture
def published(fake_hub):
    """The repository as LAION has it: a config of transformers, weights of open_clip."""
    network = publish_hps(fake_hub, "unused.pt")
    fake_hub.add(LAION, "config.json", json.dumps(clip_config()).encode())
    fake_hub.add(LAION, "open_clip_pytorch_model.bin", pickled(network.state_dict()))
    return network


def measure(metric, images, prompts, size=2):
    for first in range(0, len(images), size):
        part = slice(first, first + size)
        metric.add(None, Batch(images[part], first, prompts[part]))
    (result,) = metric.results()
    return result


def test_the_golden_rows_get_their_prefix(golden):
    rows = golden("metrics/io.safetensors")
    before = rows["clip_prefix_tokens_in"].clone()
    assert torch.equal(with_prefix(before), rows["clip_prefix_tokens_out"])
    assert torch.equal(before, rows["clip_prefix_tokens_in"])


def test_the_prefix_is_the_words_a_photo_depicts():
    said = open_clip_tokens(["A photo depicts a red bus", "A photo depicts"])
    assert torch.equal(with_prefix(open_clip_tokens(["a red bus", ""])), said)


def test_a_caption_that_just_fits_ends_with_the_end_token():
    for words in range(70, 80):
        (row,) = with_prefix(open_clip_tokens(["dog " * words]))
        assert (row == 49407).sum() == 1
        assert row[row != 0][-1] == 49407


@torch.no_grad()
def test_the_score_is_the_mean_cosine_of_open_clip(published, images):
    import open_clip
    from torchvision.transforms import functional as vision

    size = CLIP_SIZES.vision_config.image_size
    look = open_clip.image_transform(size, is_train=False)
    pixels = []
    for image in images:
        square = vision.center_crop(vision.to_pil_image(image), [min(image.shape[-2:])])
        pixels.append(look(square.resize((256, 256), Image.Resampling.LANCZOS)))
    tokens = with_prefix(open_clip_tokens(PROMPTS, published.context_length))
    features = published.encode_image(torch.stack(pixels), normalize=True)
    cosines = (features * published.encode_text(tokens, normalize=True)).sum(-1)

    result = measure(load_clip_score(HubStore()), images, PROMPTS)
    assert result.value == pytest.approx(float(cosines.mean()), abs=1e-6)
    error = float(cosines.std() / 3**0.5)
    assert result.details["standard_error"] == pytest.approx(error, abs=1e-6)


def test_pixels_are_those_of_open_clip(images):
    import open_clip

    for size in (16, 224):
        look = open_clip.image_transform(size, is_train=False)
        for picture in (to_picture(images[0]), coco_square(images[1])):
            assert torch.allclose(clip_pixels(picture, size), look(picture), atol=1e-6)


def test_the_square_is_the_middle(images):
    image = torch.zeros(3, 300, 256, dtype=torch.uint8)
    image[:, 22:278] = images[0][:, :256, :256]
    assert np.array_equal(np.array(coco_square(image)), images[0][:, :256, :256].permute(1, 2, 0))


def test_either_layout_of_weights_gives_the_same_score(fake_hub, published, images):
    first = measure(load_clip_score(HubStore()), images, PROMPTS)
    network = publish_clip(fake_hub, LAION)  # transformers' layout, preferred
    second = measure(load_clip_score(HubStore()), images, PROMPTS)
    assert first.protocol["network_sha256"] != second.protocol["network_sha256"]
    assert "logit_scale" in network.state_dict()


def test_the_number_of_batches_and_their_order_change_nothing(published, images):
    whole = load_clip_score(HubStore())
    parts = load_clip_score(HubStore())
    expected = measure(whole, images, PROMPTS, size=3)
    for number in (2, 0, 1, 2):  # the last image comes twice
        one = slice(number, number + 1)
        parts.add(None, Batch(images[one], number, PROMPTS[one]))
    (result,) = parts.results()
    assert result.value == pytest.approx(expected.value, abs=1e-7)
    assert result.protocol == expected.protocol
    assert result.protocol["images"] == 3


def test_the_protocol_says_what_the_number_is_of(published, images):
    protocol = measure(load_clip_score(HubStore()), images, PROMPTS).protocol
    assert protocol["network"] == "ViT-g-14/laion2b_s12b_b42k"
    assert len(protocol["network_sha256"]) == 64
    assert protocol["resize"].startswith("center crop, lanczos 256")
    assert protocol["caption"].startswith("A photo depicts")


def test_the_card_counts_the_parameters_of_vit_g_14():
    vision = VisionSizes(hidden_size=1408, intermediate_size=6144, num_hidden_layers=40)
    network = on_meta(lambda: ClipNetwork(ClipSizes(vision_config=vision)))
    assert sum(weight.numel() for weight in network.parameters()) == CARD.parameters


def test_a_damaged_score_is_refused_with_its_image():
    scores = PerImage()
    with pytest.raises(DimoError, match="score of image 12 is nan"):
        scores.add(10, [0.1, 0.2, float("nan")])
    assert len(scores) == 0


def test_images_without_prompts_are_refused(published, images):
    with pytest.raises(SpecError, match="`clip_score_g14` compares images with their prompts"):
        load_clip_score(HubStore()).add(None, Batch(images))


def test_no_image_is_no_score(published):
    with pytest.raises(SpecError, match="not seen a single image"):
        load_clip_score(HubStore()).results()


def test_a_network_that_is_nowhere_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(clip_config()))
    with pytest.raises(MissingError, match=r"None of 4 sources.*ViT-g-14"):
        load_clip_score(HubStore(local_dir=tmp_path))


def test_weights_of_another_network_are_refused(fake_hub, published):
    small = {**clip_config(), "projection_dim": 4}
    fake_hub.add(LAION, "config.json", json.dumps(small).encode())
    with pytest.raises(MissingError, match=r"does not fit this architecture.*differs"):
        load_clip_score(HubStore())


def count_on_rank(rank, port, results):
    """One of two processes: each has seen other images, and one was seen by both."""
    from torch import distributed

    address = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    scores = PerImage()
    scores.add(*((0, [0.0, 2.0, 1.0]), (2, [1.0, 3.0]))[rank])
    scores.reduce()
    results.put((scores.numbers(), scores.tensor().tolist()))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_scores_of_both():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=count_on_rank, args=(r, port, results)) for r in (0, 1)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert found[0] == found[1] == ([0, 1, 2, 3], [0.0, 2.0, 1.0, 3.0])
