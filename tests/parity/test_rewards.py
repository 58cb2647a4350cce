"""Reward models against the numbers of their authors' code, on tiny networks with its key names."""

import pytest
import torch
from PIL import Image

from dimo_cli.errors import MissingError
from dimo_cli.hub.loading import on_meta
from dimo_cli.rewards.aesthetic import CARDS as AESTHETIC
from dimo_cli.rewards.aesthetic import AestheticNetwork, AestheticReward
from dimo_cli.rewards.clip import CARDS as CLIP
from dimo_cli.rewards.clip import SCALED, ClipReward
from dimo_cli.rewards.clip_network import ClipNetwork, ClipSizes, clip_sizes
from dimo_cli.rewards.image_reward import CARDS as IMAGE_REWARD
from dimo_cli.rewards.image_reward import (
    MEAN,
    STD,
    UNUSED,
    ImageReward,
    ImageRewardNetwork,
    ImageRewardSizes,
    TextSizes,
)
from dimo_cli.rewards.networks import HEAD_WIDTHS, VisionSizes
from dimo_cli.rewards.preprocess import (
    CLIP_MEAN,
    CLIP_STD,
    center_crop,
    normalize,
    preprocess,
    resize_shorter_side,
)
from dimo_cli.rewards.protocol import RewardText, fill_reward
from dimo_cli.teachers.clip_text import restore_positions
from tests.helpers.golden import manifest

MANIFEST = manifest("rewards")
VIT_L_14 = ClipSizes(
    projection_dim=768,
    vision_config=VisionSizes(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, hidden_act="quick_gelu"
    ),
)


def assert_near(actual, expected, tolerance):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def rows_of(tensors):
    """The text side of golden inputs."""
    count = len(next(iter(tensors.values())))
    return RewardText(tuple(f"prompt {number}" for number in range(count)), tensors)


# ---------------------------------------------------------------- the golden CLIP


@pytest.fixture(scope="module")
def clip_config(golden):
    return golden("rewards/clip_config.json")


@pytest.fixture(scope="module")
def clip_io(golden):
    return golden("rewards/clip_io.safetensors")


@pytest.fixture(scope="module")
def clip_files(golden):
    return {name: golden(f"rewards/clip_tiny_{name}.safetensors") for name in ("hf", "openclip")}


def build_clip(config, weights, name="hps_v2.1"):
    sizes, card = clip_sizes(config["hf"]), CLIP[name]
    converted = card.weights.convert(weights)
    network = fill_reward(on_meta(lambda: ClipNetwork(sizes)), converted, card)
    restore_positions(network.text)
    return ClipReward(card, network, sizes, is_scaled=name in SCALED)


@pytest.fixture(scope="module", params=["hf", "openclip"])
def clip(request, clip_config, clip_files):
    """The reward from the file of either library."""
    return build_clip(clip_config, clip_files[request.param])


@pytest.fixture(scope="module")
def hps(clip_config, clip_files):
    return build_clip(clip_config, clip_files["openclip"])


@pytest.fixture(scope="module")
def clip_text(hps, clip_io):
    with torch.no_grad():
        return rows_of({"embedding": hps.network.embed_tokens(clip_io["input_ids_openclip"])})


def test_both_libraries_files_are_the_same_network(clip_config, clip_files):
    ours, theirs = (build_clip(clip_config, file).state_dict() for file in clip_files.values())
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert_near(tensor, theirs[name], 1e-6)


@torch.no_grad()
def test_clip_features_are_those_of_the_authors(clip, clip_io):
    network = clip.network
    assert_near(network.image(clip_io["pixel_values"]), clip_io["image_features"], 2e-5)
    for ids in ("input_ids_hf", "input_ids_openclip"):
        embedding = network.embed_tokens(clip_io[ids])
        expected = torch.nn.functional.normalize(clip_io["text_features"], dim=-1)
        assert_near(embedding, expected, 2e-5)
    images = network.embed_images(clip_io["pixel_values"])
    assert_near(images @ embedding.T, clip_io["cosine_matrix"], 1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "recorded", "tolerance"),
    [
        ("clip", "clip_reward", 1e-3),
        ("pickscore", "pick_score", 1e-3),
        ("hps_v2.0", "hps_score", 1e-5),
        ("hps_v2.1", "hps_score", 1e-5),
    ],
)
def test_clip_scores_are_those_of_the_authors(
    clip_config, clip_files, clip_io, clip_text, name, recorded, tolerance
):
    reward = build_clip(clip_config, clip_files["hf"], name)
    assert_near(reward.score(clip_io["pixel_values"], clip_text), clip_io[recorded], tolerance)
    assert reward.name == name
    scale = reward.network.logit_scale.exp().item()
    assert scale == pytest.approx(clip_config["logit_scale"], rel=1e-5)


def test_published_losses_are_constants_minus_our_scores(clip_config, clip_files, clip_io):
    for recorded, score, top in (("clip", "clip_reward", 100), ("pick", "pick_score", 30)):
        assert_near(top - clip_io[score], clip_io[f"reno_loss_{recorded}"], 1e-3)
    assert_near(1 - clip_io["hps_score"], clip_io["reno_loss_hps"], 1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_of_the_cosine_is_that_of_the_authors(clip, clip_io, clip_text, checkpointing):
    pixels = clip_io["pixel_values"].clone().requires_grad_()
    clip.gradient_checkpointing = checkpointing
    assert clip.gradient_checkpointing == checkpointing
    clip.score(pixels, clip_text).sum().backward()
    clip.gradient_checkpointing = False
    assert pixels.grad.abs().max() > 0
    assert_near(pixels.grad, clip_io["grad_pixel_of_sum_cos"], 1e-6)


@pytest.mark.parametrize(
    "missing",
    [
        "logit_scale",
        "vision_model.encoder.layers.0.self_attn.k_proj.bias",
        "text_model.final_layer_norm.bias",
    ],
)
def test_a_clip_that_lacks_a_weight_is_refused(clip_config, clip_files, missing):
    weights = {name: tensor for name, tensor in clip_files["hf"].items() if name != missing}
    with pytest.raises(MissingError, match="does not fit"):
        build_clip(clip_config, weights)


@pytest.mark.parametrize("unknown", ["visual.ln_extra.weight", "vision_model.x", "adapter.weight"])
def test_a_clip_with_an_unknown_weight_is_refused(clip_config, clip_files, unknown):
    with pytest.raises(MissingError, match="has unknown") as caught:
        build_clip(clip_config, {**clip_files["openclip"], unknown: torch.ones(1)})
    assert "hps_v2.1" in caught.value.hint


def test_constant_position_numbers_of_old_files_are_left_out(clip_config, clip_files):
    numbers = {
        f"{tower}_model.embeddings.position_ids": torch.arange(5)[None]
        for tower in ("text", "vision")
    }
    build_clip(clip_config, {**clip_files["hf"], **numbers})


# ---------------------------------------------------------------- preprocessing


def test_images_are_prepared_as_by_the_tensor_path(clip_io, clip_config):
    unit = clip_io["pre_image_u8_hwc"].permute(2, 0, 1)[None].float() / 255
    size, expected = clip_config["preprocess_size"], clip_io["pre_tensor_antialias"][None]
    assert_near(normalize(unit, size), expected, 1e-5)
    assert_near(preprocess(unit * 2 - 1, size), expected, 1e-5)
    assert (preprocess(unit * 2 - 1, size, antialias=False) - expected).abs().max() > 0.01


def test_the_path_over_pil_differs_from_ours_by_its_rounding_only(clip_io, clip_config):
    size, array = clip_config["preprocess_size"], clip_io["pre_image_u8_hwc"]
    height, width = (int(size * side / min(array.shape[:2])) for side in array.shape[:2])
    picture = Image.fromarray(array.numpy()).resize((width, height), Image.Resampling.BICUBIC)
    raw = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    unit = raw.view(height, width, 3).permute(2, 0, 1)[None].float() / 255
    assert_near(normalize(unit, size), clip_io["pre_pil"][None], 1e-5)
    assert_near(clip_io["pre_pil"], clip_io["pre_tensor_antialias"], 0.05)


@pytest.mark.parametrize("shape", [(9, 9), (37, 37), (40, 23), (31, 64)])
@pytest.mark.parametrize("antialias", [True, False])
def test_resize_and_crop_are_those_of_torchvision(shape, antialias):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as tv

    unit = torch.rand(2, 3, *shape)
    theirs = tv.resize(unit, 16, InterpolationMode.BICUBIC, antialias=antialias)
    ours = resize_shorter_side(unit, 16, antialias)
    assert torch.equal(ours, theirs)
    assert torch.equal(center_crop(ours, 16), tv.center_crop(theirs, 16))
    expected = tv.normalize(tv.center_crop(theirs, 16), CLIP_MEAN, CLIP_STD)
    assert_near(normalize(unit, 16, antialias=antialias), expected, 1e-6)


def test_preprocessing_is_float32_and_clamps_without_a_gradient():
    images = torch.tensor([-1.5, 0.25, 1.5]).repeat(1, 3, 12, 4).requires_grad_()
    pixels = preprocess(images, 12)
    pixels.sum().backward()
    assert (images.grad != 0).equal(images.abs() < 1)
    assert torch.equal(preprocess(images.clamp(-1, 1), 12), pixels)
    half = preprocess(images.detach().bfloat16(), 6)
    assert half.dtype == torch.float32


# ---------------------------------------------------------------- the golden ImageReward


def image_reward_sizes(config):
    """Sizes in our words."""
    return ImageRewardSizes(
        text_config=TextSizes(
            vocab_size=config["vocab_size"],
            max_position_embeddings=config["max_position_embeddings"],
            hidden_size=config["text_hidden_size"],
            intermediate_size=config["text_intermediate_size"],
            num_hidden_layers=config["text_layers"],
            num_attention_heads=config["text_heads"],
            layer_norm_eps=config["text_layer_norm_eps"],
        ),
        vision_config=VisionSizes(
            image_size=config["image_size"],
            patch_size=config["patch_size"],
            hidden_size=config["vision_width"],
            intermediate_size=config["vision_width"] * config["vision_mlp_ratio"],
            num_hidden_layers=config["vision_layers"],
            num_attention_heads=config["vision_heads"],
            layer_norm_eps=config["vision_layer_norm_eps"],
        ),
    )


def build_image_reward(config, weights):
    sizes, card = image_reward_sizes(config), IMAGE_REWARD["image_reward"]
    network = on_meta(lambda: ImageRewardNetwork(sizes))
    network = fill_reward(network, card.weights.convert(weights), card)
    return ImageReward(card, network, sizes.vision_config.image_size, tokenizer=None)


@pytest.fixture(scope="module")
def config(golden):
    return golden("rewards/imagereward_config.json")


@pytest.fixture(scope="module")
def weights(golden):
    return golden("rewards/imagereward_tiny.safetensors")


@pytest.fixture(scope="module")
def io(golden):
    return golden("rewards/imagereward_io.safetensors")


@pytest.fixture(scope="module")
def image_reward(config, weights):
    return build_image_reward(config, weights)


@pytest.fixture(scope="module")
def text(io):
    return rows_of({"ids": io["input_ids"], "mask": io["attention_mask"]})


def test_constants_of_image_reward_are_those_of_the_authors(config):
    assert (config["reward_mean"], config["reward_std"]) == (MEAN, STD)
    assert list(HEAD_WIDTHS) == config["mlp_hidden"]


@torch.no_grad()
def test_image_reward_hidden_states_are_those_of_the_authors(image_reward, io):
    blip = image_reward.network.blip
    image = blip["visual_encoder"](io["image"])
    assert_near(image, io["image_embeds"], 2e-5)
    states = blip["text_encoder"](io["input_ids"], io["attention_mask"], image)
    assert_near(states, io["text_last_hidden_state"], 2e-5)


@torch.no_grad()
def test_image_reward_scores_are_those_of_the_authors(image_reward, io, text):
    raw = image_reward.network(io["image"], io["input_ids"], io["attention_mask"])
    assert_near(raw.view_as(io["raw"]), io["raw"], 1e-5)
    score = image_reward.score(io["image"], text)
    assert score.shape == (len(text),)
    assert_near(score.view_as(io["reward"]), io["reward"], 1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_image_reward_gradient_is_that_of_the_authors(image_reward, io, text, checkpointing):
    pixels = io["image"].clone().requires_grad_()
    image_reward.gradient_checkpointing = checkpointing
    image_reward.score(pixels, text).sum().backward()
    image_reward.gradient_checkpointing = False
    assert pixels.grad.abs().max() > 0
    assert_near(pixels.grad, io["grad_image"], 1e-6)


@pytest.mark.parametrize("part", ["crossattention", "visual_encoder.norm", "mlp.layers.7"])
def test_an_image_reward_that_lacks_a_part_is_refused(config, weights, part):
    rest = {name: tensor for name, tensor in weights.items() if part not in name}
    with pytest.raises(MissingError, match="lacks"):
        build_image_reward(config, rest)


def test_an_image_reward_needs_no_unused_weights_but_refuses_unknown_ones(config, weights):
    build_image_reward(config, {k: v for k, v in weights.items() if k not in UNUSED})
    with pytest.raises(MissingError, match="has unknown"):
        build_image_reward(config, {**weights, "blip.itm_head.weight": torch.ones(2)})


def test_the_full_size_image_reward_has_the_published_names_and_shapes():
    card = IMAGE_REWARD["image_reward"]
    network = on_meta(lambda: ImageRewardNetwork(ImageRewardSizes()))
    published = {name: torch.empty(shape, device="meta") for name, shape in MANIFEST.items()}
    assert len(published) == 625
    assert set(UNUSED) <= published.keys()
    converted = card.weights.convert(published)
    ours = network.state_dict()
    assert {name: tensor.shape for name, tensor in converted.items()} == {
        name: tensor.shape for name, tensor in ours.items()
    }
    unused = sum(published[name].numel() for name in UNUSED if "position_ids" not in name)
    count = sum(p.numel() for p in network.parameters())
    assert count == card.parameters
    assert count + unused == 446_665_953


# ---------------------------------------------------------------- full-size CLIPs


def test_the_full_size_clip_takes_the_names_of_both_libraries():
    import open_clip
    from transformers import CLIPConfig, CLIPModel

    network = on_meta(lambda: ClipNetwork(ClipSizes()))
    ours = {name: tensor.shape for name, tensor in network.state_dict().items()}
    config = ClipSizes().model_dump()
    libraries = (
        lambda: open_clip.CLIP(**open_clip.get_model_config("ViT-H-14")),
        lambda: CLIPModel(CLIPConfig(**config)),
    )
    for card, build in zip((CLIP["hps_v2.1"], CLIP["clip"]), libraries, strict=True):
        converted = card.weights.convert(on_meta(build).state_dict())
        assert {name: tensor.shape for name, tensor in converted.items()} == ours
        assert sum(p.numel() for p in network.parameters()) == card.parameters == 986_109_441


@torch.no_grad()
def test_the_approximate_gelu_of_openais_clip_is_that_of_transformers():
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    tower |= {"num_attention_heads": 2, "hidden_act": "quick_gelu"}
    image, words = {"image_size": 16, "patch_size": 8}, {"vocab_size": 9, "eos_token_id": 8}
    config = {"projection_dim": 6, "text_config": tower | words, "vision_config": tower | image}
    torch.manual_seed(0)
    theirs = CLIPModel(CLIPConfig(**config)).eval()
    for parameter in theirs.parameters():
        parameter.normal_(0, 0.5)
    reward = build_clip({"hf": config}, theirs.state_dict(), "clip")
    pixels, ids = torch.randn(2, 3, 16, 16), torch.tensor([[7, 1, 8, 0], [7, 1, 3, 8]])
    expected = theirs(input_ids=ids, pixel_values=pixels)
    assert_near(reward.network.embed_images(pixels), expected.image_embeds, 1e-5)
    text = rows_of({"embedding": reward.network.embed_tokens(ids)})
    logits = expected.logits_per_image.diag()
    torch.testing.assert_close(reward.score(pixels, text), logits, atol=1e-4, rtol=1e-4)


def test_the_aesthetic_predictor_takes_the_image_half_of_openais_clip():
    from transformers import CLIPConfig, CLIPModel

    card = AESTHETIC["aesthetic"]
    text = {"hidden_size": 768, "num_hidden_layers": 1, "num_attention_heads": 12}
    config = {**VIT_L_14.model_dump(), "text_config": text}
    whole = on_meta(lambda: CLIPModel(CLIPConfig(**config))).state_dict()
    network = on_meta(lambda: AestheticNetwork(VIT_L_14))
    ours = {name: t.shape for name, t in network.state_dict().items() if "image." in name}
    converted = card.weights.convert({**whole, "odd.weight": torch.ones(1)})
    assert {name: t.shape for name, t in converted.items()} == ours | {"odd.weight": (1,)}
    head = {f"layers.{n}.{kind}" for n in (0, 2, 4, 6, 7) for kind in ("weight", "bias")}
    assert network.head.state_dict().keys() == head
    assert sum(p.numel() for p in network.parameters()) == card.parameters


# ---------------------------------------------------------------- what all rewards promise


@pytest.fixture(scope="module")
def aesthetic(clip_config):
    torch.manual_seed(0)
    sizes = clip_sizes(clip_config["hf"])
    image_size = sizes.vision_config.image_size
    return AestheticReward(AESTHETIC["aesthetic"], AestheticNetwork(sizes), image_size)


@pytest.fixture(params=["hps", "image_reward", "aesthetic"])
def judged(request):
    """Each kind of reward, golden prompts or any, and as many images of another size."""
    reward = request.getfixturevalue(request.param)
    texts = {"hps": "clip_text", "image_reward": "text"}
    if request.param in texts:
        text = request.getfixturevalue(texts[request.param])
    else:
        text = RewardText(("any",) * 3, {})
    generator = torch.Generator().manual_seed(1)
    return reward, text, torch.rand(len(text), 3, 40, 29, generator=generator) * 2 - 1


@torch.no_grad()
def test_a_batch_scores_what_its_pairs_score(judged):
    reward, text, images = judged
    together = reward(images, text)
    alone = [reward(images[n : n + 1], text[n : n + 1]) for n in range(len(images))]
    assert together.shape == (len(images),)
    assert_near(together, torch.cat(alone), 1e-5)


@torch.no_grad()
def test_images_enter_in_minus_one_to_one(judged):
    reward, text, images = judged
    pixels = normalize((images + 1) / 2, reward.image_size)
    assert_near(reward(images, text), reward.score(pixels, text), 1e-5)
    assert_near(reward(images * 3, text), reward((images * 3).clamp(-1, 1), text), 0)


@torch.no_grad()
def test_the_mode_of_the_wrapper_changes_nothing(judged):
    reward, text, images = judged
    before = reward(images, text)
    reward.train()
    assert not any(module.training for module in reward.network.modules())
    assert torch.equal(reward(images, text), before)
    reward.eval()


def test_gradients_reach_the_images_and_nothing_else(judged):
    reward, text, images = judged
    gradients = []
    for checkpointing in (False, True):
        reward.gradient_checkpointing = checkpointing
        leaf = images.clone().requires_grad_()
        reward(leaf, text).sum().backward()
        gradients.append(leaf.grad)
    reward.gradient_checkpointing = False
    assert gradients[0].abs().max() > 0
    assert torch.equal(*gradients)
    assert not any(parameter.requires_grad for parameter in reward.parameters())
    assert all(parameter.grad is None for parameter in reward.parameters())


def test_checkpointing_keeps_less_for_the_backward_pass(judged):
    reward, text, images = judged
    kept = []
    for checkpointing in (False, True):
        reward.gradient_checkpointing = checkpointing
        sizes = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1], lambda t: t
        )
        with hooks:
            reward(images.clone().requires_grad_(), text)
        kept.append(sum(sizes))
    reward.gradient_checkpointing = False
    assert kept[1] < kept[0]


def test_each_image_needs_a_prompt(judged):
    reward, text, images = judged
    with pytest.raises(AssertionError, match="one prompt"):
        reward(images, text[:1])
