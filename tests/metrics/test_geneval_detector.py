"""The detector of GenEval: objects from logits by hand, colors by CLIP, real loading paths."""

import json
from pathlib import PurePath

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from dimo_cli.data.arrays import Batch
from dimo_cli.errors import MissingError
from dimo_cli.hub.loading import on_meta
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics import geneval_detector
from dimo_cli.metrics.geneval import Detection, GenEval
from dimo_cli.metrics.geneval_detector import (
    CLIP_CARD,
    CLIP_REPO,
    MASK2FORMER,
    crop,
    detector_pixels,
    detector_size,
    find_instances,
    load_detector,
    load_mask2former,
    tight_box,
)
from dimo_cli.metrics.geneval_requests import CLASSES, COLORS, Request
from dimo_cli.metrics.prompts import geneval_set
from dimo_cli.rewards.clip_network import ClipNetwork, ClipSizes, TextSizes
from dimo_cli.rewards.networks import VisionSizes
from tests.helpers.published import pickled
from tests.rewards.test_loading import publish_clip

SURE = 12.0


def tiny_config(classes=80):
    """A Mask2Former of thousands of parameters."""
    return Mask2FormerConfig(
        backbone_config={
            "model_type": "swin",
            "image_size": 32,
            "embed_dim": 8,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 2],
            "window_size": 4,
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=12,
        id2label={n: f"class {n}" for n in range(classes)},
    )


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Mask2FormerForUniversalSegmentation(tiny_config()).eval()


def publish_network(hub, network, weights=None, name="model.safetensors"):
    """The repository of the detector, saved by transformers itself."""
    weights = {key: t.contiguous() for key, t in (weights or network.state_dict()).items()}
    hub.add(MASK2FORMER, "config.json", json.dumps(network.config.to_dict()).encode())
    content = save(weights, {"format": "pt"}) if name.endswith("safetensors") else pickled(weights)
    hub.add(MASK2FORMER, name, content)


@pytest.fixture
def small_input(monkeypatch):
    """A shorter side of 64 pixels: the network of the tests is as small."""
    monkeypatch.setattr(geneval_detector, "SHORTER", 64)


def logits_of(*objects, size=16, classes=4):
    """Logits of one query for each (class, sureness, mask), where a mask is rows and columns."""
    class_logits = torch.zeros(len(objects), classes + 1)
    mask_logits = torch.full((len(objects), size, size), -SURE)
    for query, (label, chance, (rows, columns), logit) in enumerate(objects):
        class_logits[query] = torch.tensor((1 - chance) / classes).log()
        class_logits[query, label] = torch.tensor(chance).log()
        mask_logits[query, rows, columns] = logit
    return class_logits, mask_logits


def test_instances_have_the_box_mask_and_score_of_the_definition():
    area = (slice(2, 6), slice(3, 10))
    logits = logits_of((1, 0.8, area, 1.0))
    ((label, found),) = find_instances(*logits, 16, 16, least=0.3)
    assert label == 1
    assert found.box == (3, 2, 10, 6)
    assert found.score == pytest.approx(0.8 * torch.tensor(1.0).sigmoid().item(), abs=1e-6)
    expected = np.zeros((16, 16), dtype=bool)
    expected[area] = True
    assert np.array_equal(found.mask, expected)


def test_instances_are_ordered_by_class_and_those_without_hope_left_out():
    whole = (slice(0, 8), slice(0, 8))
    logits = logits_of((0, 0.35, whole, SURE), (2, 0.9, whole, SURE), (3, 0.29, whole, SURE))
    assert [label for label, _ in find_instances(*logits, 16, 16, least=0.3)] == [2, 0]
    everything = find_instances(*logits, 16, 16, least=0.0)
    assert len(everything) == 12  # every query as every class
    kept = {(label, round(thing.score, 4)) for label, thing in everything if thing.score > 0.3}
    assert kept == {(2, 0.9), (0, 0.35)}


def test_one_query_can_be_two_objects_and_none_is_never_one():
    whole = (slice(0, 8), slice(0, 8))
    class_logits, mask_logits = logits_of((0, 0.5, whole, SURE))
    class_logits[0] = torch.tensor([0.4, 0.35, 1e-6, 1e-6, 0.25]).log()
    labels = [label for label, _ in find_instances(class_logits, mask_logits, 16, 16, least=0.2)]
    assert labels == [0, 1]


def test_at_most_a_hundred_pairs_become_instances():
    class_logits = torch.zeros(30, 11)
    mask_logits = torch.ones(30, 4, 4)
    assert len(find_instances(class_logits, mask_logits, 4, 4, least=0.0)) == 100


def test_empty_masks_are_no_objects():
    logits = logits_of((1, 0.9, (slice(0, 0), slice(0, 0)), SURE))
    assert find_instances(*logits, 16, 16, least=0.3) == []


def test_masks_come_at_the_size_of_the_image():
    logits = logits_of((1, 0.9, (slice(4, 8), slice(8, 16)), SURE))
    ((_, found),) = find_instances(*logits, 64, 32, least=0.3)
    assert found.mask.shape == (64, 32)
    assert found.box == (16, 16, 32, 32)


def test_scores_and_masks_are_those_of_the_library(network):
    from transformers import Mask2FormerImageProcessor

    generator = torch.Generator().manual_seed(2)
    class_logits = 2 * torch.randn(1, 12, 81, generator=generator)
    mask_logits = torch.randn(1, 12, 6, 6, generator=generator)
    mask_logits = torch.nn.functional.interpolate(mask_logits, (384, 384), mode="bilinear")
    output = type("Output", (), {})()
    output.class_queries_logits, output.masks_queries_logits = class_logits, mask_logits
    (theirs,) = Mask2FormerImageProcessor().post_process_instance_segmentation(
        output, threshold=0.0, target_sizes=[(384, 384)], return_binary_maps=True
    )
    ours = find_instances(class_logits[0], mask_logits[0], 384, 384, least=0.0)
    theirs_by_score = {
        round(info["score"], 4): (info["label_id"], mask)
        for info, mask in zip(theirs["segments_info"], theirs["segmentation"], strict=True)
    }
    assert theirs_by_score
    by_score = {round(thing.score, 4): (label, thing) for label, thing in ours}
    for score, (label, mask) in theirs_by_score.items():
        found, thing = by_score[score]
        assert found == label
        assert np.array_equal(thing.mask, mask.bool().numpy())


def test_a_box_is_tight_around_its_mask():
    mask = torch.zeros(9, 12, dtype=torch.bool)
    mask[3, 7] = mask[5, 2] = True
    assert tight_box(mask) == (2, 3, 8, 6)


@pytest.mark.parametrize(
    ("side", "expected"),
    [((512, 512), (800, 800)), ((1024, 1024), (800, 800)), ((480, 640), (800, 1088))],
)
def test_the_shorter_side_is_800(side, expected):
    assert detector_size(*side) == expected


def test_the_longer_side_stays_at_1333():
    height, width = detector_size(200, 1000)
    assert width == 1344  # 1333 up to what 32 divides
    assert height == 288


def test_pixels_are_normalized_as_for_imagenet(small_input):
    image = torch.full((3, 40, 40), 255, dtype=torch.uint8)
    pixels = detector_pixels(image)
    assert pixels.shape == (1, 3, 64, 64)
    assert pixels[0, :, 5, 5].tolist() == pytest.approx(
        [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]
    )


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_the_published_detector_is_loaded_strictly(fake_hub, network, capfd, name):
    publish_network(fake_hub, network, name=name)
    loaded = load_mask2former(HubStore())
    assert loaded.state_dict().keys() == network.state_dict().keys()
    for key, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    written = capfd.readouterr()
    assert written.out == written.err == ""


@torch.no_grad()
def test_a_file_of_2023_gives_the_same_detections(fake_hub, network, tmp_path):
    """With the names of then, with constants that are none today, without parts that came later."""
    network.save_pretrained(tmp_path)  # under the older names
    weights = {
        key: tensor
        for key, tensor in load_file(tmp_path / "model.safetensors").items()
        if "swin.layernorm" not in key and "criterion" not in key
    }
    stem = "model.pixel_level_module.encoder.encoder.layers.0.blocks.0.attention.self"
    assert f"{stem}.query.weight" in weights
    weights[f"{stem}.relative_position_index"] = torch.zeros(16, 16, dtype=torch.long)
    publish_network(fake_hub, network, weights, "pytorch_model.bin")
    loaded, pixels = load_mask2former(HubStore()), torch.randn(1, 3, 64, 64)
    before, after = network(pixel_values=pixels), loaded(pixel_values=pixels)
    assert torch.equal(before.class_queries_logits, after.class_queries_logits)
    assert torch.equal(before.masks_queries_logits, after.masks_queries_logits)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda w: w.pop("class_predictor.bias"), "missing keys, first class_predictor.bias"),
        (lambda w: w.update({"class_predictor.bias2": torch.ones(2)}), "unexpected keys, first"),
        (
            lambda w: w.update({"class_predictor.bias": torch.ones(2)}),
            "mismatched keys, first class_predictor.bias",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(fake_hub, network, change, match):
    weights = dict(network.state_dict())
    change(weights)
    publish_network(fake_hub, network, weights)
    with pytest.raises(MissingError, match=match):
        load_mask2former(HubStore())


def test_a_damaged_file_is_refused_and_forgotten(fake_hub, network):
    publish_network(fake_hub, network)
    whole = fake_hub.files[(MASK2FORMER, "model.safetensors")]
    fake_hub.files[(MASK2FORMER, "model.safetensors")] = whole[:1000]
    with pytest.raises(MissingError, match="cannot be read"):
        load_mask2former(HubStore())
    fake_hub.files[(MASK2FORMER, "model.safetensors")] = whole
    assert load_mask2former(HubStore()) is not None


def test_a_pickle_with_more_than_tensors_is_refused(fake_hub, network):
    fake_hub.add(MASK2FORMER, "config.json", json.dumps(network.config.to_dict()).encode())
    fake_hub.add(MASK2FORMER, "pytorch_model.bin", pickled({"a": PurePath("b")}))
    with pytest.raises(MissingError, match="cannot be read"):
        load_mask2former(HubStore())


def test_a_detector_of_other_classes_is_refused(fake_hub):
    other = Mask2FormerForUniversalSegmentation(tiny_config(classes=150))
    publish_network(fake_hub, other)
    with pytest.raises(MissingError, match="of a mask2former with 150 classes, not"):
        load_mask2former(HubStore())


def test_another_kind_of_network_is_refused(fake_hub, network):
    publish_network(fake_hub, network)
    fake_hub.add(MASK2FORMER, "config.json", b'{"model_type": "detr"}')
    with pytest.raises(MissingError, match="is of a detr"):
        load_mask2former(HubStore())


def test_a_config_that_is_no_object_is_refused(fake_hub, network):
    publish_network(fake_hub, network)
    fake_hub.add(MASK2FORMER, "config.json", b"[]")
    with pytest.raises(MissingError, match="not a valid configuration"):
        load_mask2former(HubStore())


def test_a_missing_detector_names_its_files(tmp_path):
    with pytest.raises(MissingError, match="mask2former-swin-small-coco-instance"):
        load_detector(HubStore(local_dir=tmp_path))


@pytest.fixture
def source(fake_hub, network, small_input):
    publish_network(fake_hub, network)
    publish_clip(fake_hub, CLIP_REPO)
    return load_detector(HubStore())


@pytest.fixture
def image():
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (3, 48, 60), generator=generator, dtype=torch.uint8)


@torch.no_grad()
def test_detections_are_those_of_the_network_by_name_of_their_class(source, network, image):
    source.least = 0.012  # an untrained network is sure of nothing
    found = source.detect(image)
    output = network(pixel_values=detector_pixels(image))
    classes, masks = output.class_queries_logits[0], output.masks_queries_logits[0]
    expected = find_instances(classes, masks, 48, 60, least=0.012)
    assert expected
    assert sum(map(len, found.values())) == len(expected)
    for label, thing in expected:
        same = [t for t in found[CLASSES[label]] if t.box == thing.box and t.score == thing.score]
        assert same
        assert thing.mask.shape == (48, 60)


def test_what_the_source_is_says_its_protocol(source):
    protocol = source.protocol()
    assert protocol["detector"] == MASK2FORMER
    assert protocol["color_classifier"] == CLIP_REPO
    hashes = [protocol["detector_sha256"], protocol["color_classifier_sha256"]]
    assert [len(value) for value in hashes] == [64, 64]
    assert hashes[0] != hashes[1]


def test_an_object_is_cut_out_and_what_is_around_it_is_gray():
    pixels = np.full((10, 12, 3), 7, dtype=np.uint8)
    mask = np.zeros((10, 12), dtype=bool)
    mask[2:5, 3:9] = True
    mask[2, 3] = False
    cut = np.array(crop(pixels, Detection((3.0, 2.0, 9.0, 5.0), 0.9, mask)))
    assert cut.shape == (3, 6, 3)
    assert cut[0, 0].tolist() == [0x99] * 3
    assert (cut.reshape(-1, 3)[1:] == 7).all()
    whole = np.array(crop(pixels, Detection((3.0, 2.0, 9.0, 5.0), 0.9)))
    assert (whole == 7).all()


@torch.no_grad()
def test_colors_are_the_nearest_of_ten_by_open_clip_s_recipe(fake_hub, source, image):
    """The phrases and the pixels once more, with transformers' own network."""
    from open_clip import image_transform, tokenize

    clip = publish_clip(fake_hub, CLIP_REPO)
    objects = []
    for box in ((5, 4, 30, 40), (0, 0, 60, 48), (20, 10, 31, 21)):
        mask = np.zeros((48, 60), dtype=bool)
        mask[box[1] : box[3], box[0] : box[2]] = True
        mask[box[1], box[0] + 1] = False
        objects.append(Detection(box, 0.9, mask))
    length, size = source.colors.clip.length, source.colors.clip.image_size
    phrases = ("a photo of a {} bus", "a photo of a {}-colored bus", "a photo of a {} object")
    rows = []
    for color in COLORS:
        ids = tokenize([phrase.format(color) for phrase in phrases], context_length=length)
        each = clip.get_text_features(input_ids=ids)
        each = each if isinstance(each, torch.Tensor) else each.pooler_output
        mean = torch.nn.functional.normalize(each, dim=-1).mean(0)
        rows.append(torch.nn.functional.normalize(mean, dim=-1))
    classifier = torch.stack(rows)
    assert torch.allclose(source.colors.embeddings("bus"), classifier, atol=1e-5)
    whole = Image.fromarray(image.permute(1, 2, 0).numpy())
    gray = Image.new("RGB", whole.size, "#999")
    pixels = [
        image_transform(size, is_train=False)(
            Image.composite(whole, gray, Image.fromarray(thing.mask)).crop(thing.box)
        )
        for thing in objects
    ]
    seen = clip.get_image_features(pixel_values=torch.stack(pixels))
    seen = seen if isinstance(seen, torch.Tensor) else seen.pooler_output
    expected = [COLORS[n] for n in (seen @ classifier.T).argmax(-1).tolist()]
    assert source.colors(image, "bus", objects) == expected


def test_the_metric_carries_the_detector_s_name(source, image):
    requests = [
        Request(tag=tag, include=[{"class": "dog", "count": 1}], prompt=tag)
        for tag in ("single_object", "two_object", "counting", "colors", "position", "color_attr")
    ]
    prompts = geneval_set(requests, [str(n) for n in range(6)], 1)
    metric = GenEval(source, prompts)
    metric.add(None, Batch(image.expand(6, -1, -1, -1), 0, prompts.prompts))
    overall, *tasks = metric.results()
    assert overall.metric == "geneval_mask2former"
    assert overall.value == 0.0  # an untrained network is sure of nothing
    assert overall.protocol["detector_sha256"] == source.protocol()["detector_sha256"]
    assert len(tasks) == 6


def test_the_card_counts_the_parameters_of_openai_s_clip():
    sizes = {"num_hidden_layers": 12, "num_attention_heads": 12}
    text = TextSizes(hidden_size=768, intermediate_size=3072, **sizes)
    vision = VisionSizes(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24)
    clip = ClipSizes(projection_dim=768, text_config=text, vision_config=vision)
    network = on_meta(lambda: ClipNetwork(clip))
    assert sum(weight.numel() for weight in network.parameters()) == CLIP_CARD.parameters
