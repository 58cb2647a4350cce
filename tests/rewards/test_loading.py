"""Rewards by name: found, downloaded, filled, and reading prompts once; failures are sentences."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.hub.access import dimo_cache
from dimo_cli.hub.store import HubStore
from dimo_cli.rewards import registry
from dimo_cli.rewards.aesthetic import HEAD
from dimo_cli.rewards.clip_network import ClipSizes, TextSizes
from dimo_cli.rewards.image_reward import PROMPT_LENGTH, ImageRewardSizes
from dimo_cli.rewards.image_reward import TextSizes as BertSizes
from dimo_cli.rewards.networks import AffineHead, VisionSizes
from dimo_cli.rewards.registry import REWARDS, blank_reward, load_reward
from tests.helpers.published import pickled

VOCABULARY = 49408  # that of every CLIP: prompts are cut by the real tokenizer
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
VISION = {**TEXT, "image_size": 16, "patch_size": 8}
HEADS = {"num_attention_heads": 2}
CLIP_SIZES = ClipSizes(
    projection_dim=8,
    text_config=TextSizes(**TEXT, **HEADS, max_position_embeddings=12),
    vision_config=VisionSizes(**VISION, **HEADS),
)
BLIP_SIZES = ImageRewardSizes(
    text_config=BertSizes(**TEXT, **HEADS, vocab_size=40, max_position_embeddings=50),
    vision_config=VisionSizes(**VISION, **HEADS),
)
SIZES = {"hps_v2.0": CLIP_SIZES, "hps_v2.1": CLIP_SIZES, "image_reward": BLIP_SIZES}
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "##s", "dog")
PROMPTS = ["a cat", "two dogs in the rain"]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """The client waits between its attempts; the tests do not."""
    import huggingface_hub.utils._http as http

    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)


@pytest.fixture
def images():
    return torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_encoded_prompts_are_forgotten_beyond_a_limit(monkeypatch):
    monkeypatch.setattr("dimo_cli.rewards.protocol.KEPT_BYTES", 3 * 512)
    reward = load_reward("shapes_clip", HubStore())
    captions = [f"{number} red circles" for number in ("two", "three", "four")]
    wanted = reward.prepare(captions * 2).tensors["words"]
    reward.prepare([f"a {color} square" for color in ("red", "green", "blue", "yellow")] * 3)
    kept = sum(row["words"].untyped_storage().nbytes() for row in reward._rows.values())
    assert kept <= 3 * 512
    assert torch.equal(reward.prepare(captions * 2).tensors["words"], wanted)


def clip_config():
    """A config file as transformers saves it, with its own notes."""
    config = CLIP_SIZES.model_dump()
    return {**config, "architectures": ["CLIPModel"], "model_type": "clip"}


def publish_clip(hub, repo, name="model.safetensors"):
    """A repository in transformers' layout; returns the network that is in it."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    network = CLIPModel(CLIPConfig(**clip_config())).eval()
    hub.add(repo, "config.json", json.dumps(clip_config()).encode())
    weights = network.state_dict()
    hub.add(repo, name, save(weights) if name.endswith(".safetensors") else pickled(weights))
    return network


def publish_hps(hub, file):
    """A training checkpoint of open_clip."""
    import open_clip

    text, vision = CLIP_SIZES.text_config, CLIP_SIZES.vision_config
    torch.manual_seed(0)
    network = open_clip.CLIP(
        CLIP_SIZES.projection_dim,
        {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "width": vision.hidden_size,
            "layers": vision.num_hidden_layers,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "mlp_ratio": vision.intermediate_size / vision.hidden_size,
        },
        {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "layers": text.num_hidden_layers,
            "heads": text.num_attention_heads,
            "mlp_ratio": text.intermediate_size / text.hidden_size,
        },
    ).eval()
    checkpoint = {"epoch": 3, "state_dict": network.state_dict(), "name": "hps"}
    hub.add("xswu/HPSv2", file, pickled(checkpoint))
    return network


def publish_image_reward(hub):
    """The pickle of ImageReward and the vocabulary of BERT."""
    from dimo_cli.rewards.image_reward import UNUSED, ImageRewardNetwork

    torch.manual_seed(0)
    weights = ImageRewardNetwork(BLIP_SIZES).state_dict()
    unused = {name: torch.ones(2) for name in UNUSED}
    hub.add("THUDM/ImageReward", "ImageReward.pt", pickled({**weights, **unused}))
    bert, settings = "google-bert/bert-base-uncased", {"do_lower_case": True}
    hub.add(bert, "vocab.txt", "".join(f"{word}\n" for word in WORDS).encode())
    hub.add(bert, "tokenizer_config.json", json.dumps(settings).encode())


def publish_aesthetic(hub):
    """OpenAI's CLIP, and the head where a person would put it."""
    publish_clip(hub, "openai/clip-vit-large-patch14")
    torch.manual_seed(0)
    return pickled(AffineHead(CLIP_SIZES.projection_dim).state_dict())


PUBLISH = {
    "clip": lambda hub: publish_clip(hub, "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
    "pickscore": lambda hub: publish_clip(hub, "yuvalkirstain/PickScore_v1", "pytorch_model.bin"),
    "hps_v2.0": lambda hub: publish_hps(hub, "HPS_v2_compressed.pt"),
    "hps_v2.1": lambda hub: publish_hps(hub, "HPS_v2.1_compressed.pt"),
    "image_reward": publish_image_reward,
}


@pytest.mark.parametrize("name", PUBLISH)
def test_a_reward_is_loaded_by_its_name_and_scores_pairs(fake_hub, images, name):
    PUBLISH[name](fake_hub)
    said = []
    reward = load_reward(name, HubStore(say=said.append), "cpu", SIZES.get(name))
    assert (reward.name, reward.scale_note) == (name, blank_reward(name).scale_note)
    assert any("Downloading" in line for line in said)
    scores = reward(images, reward.prepare(PROMPTS))
    assert scores.shape == (2,)
    assert scores.isfinite().all()
    swapped = reward(images, reward.prepare(PROMPTS[::-1]))
    assert not torch.allclose(scores, swapped)
    again = load_reward(name, HubStore(), "cpu", SIZES.get(name))
    assert torch.equal(again(images, again.prepare(PROMPTS)), scores)


@torch.no_grad()
def test_clip_score_from_files_is_that_of_transformers(fake_hub, images):
    from dimo_cli.rewards.preprocess import preprocess
    from dimo_cli.teachers.clip_text import open_clip_tokens

    network = PUBLISH["clip"](fake_hub)
    reward = load_reward("clip", HubStore())
    ids = open_clip_tokens(PROMPTS, 12)
    expected = network(input_ids=ids, pixel_values=preprocess(images, 16)).logits_per_image.diag()
    scores = reward(images, reward.prepare(PROMPTS))
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_hps_from_files_is_that_of_open_clip(fake_hub, images):
    from dimo_cli.rewards.preprocess import preprocess
    from dimo_cli.teachers.clip_text import open_clip_tokens

    network = PUBLISH["hps_v2.1"](fake_hub)
    reward = load_reward("hps_v2.1", HubStore(), sizes=CLIP_SIZES)
    image = network.encode_image(preprocess(images, 16), normalize=True)
    text = network.encode_text(open_clip_tokens(PROMPTS, 12), normalize=True)
    scores = reward(images, reward.prepare(PROMPTS))
    torch.testing.assert_close(scores, (image * text).sum(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["clip", "image_reward"])
def test_a_prompt_is_encoded_once(fake_hub, images, name, monkeypatch):
    PUBLISH[name](fake_hub)
    reward = load_reward(name, HubStore(), sizes=SIZES.get(name))
    encoded, encode = [], reward.encode
    monkeypatch.setattr(
        reward, "encode", lambda prompts: (encoded.extend(prompts), encode(prompts))[1]
    )
    with torch.inference_mode():
        reward.prepare(["a", "b", "a"])
    text = reward.prepare(["b", "c", "b"])
    assert encoded == ["a", "b", "c"]
    assert text.prompts == ("b", "c", "b")
    for rows in text.tensors.values():
        assert torch.equal(rows[0], rows[2])
        assert not rows.is_inference()
    reward.offload_text()
    assert len(reward.prepare(["d"])) == 1
    assert len(reward.prepare([])) == 0
    leaf = images.clone().requires_grad_()
    reward(leaf, text[:2]).sum().backward()  # also with what was encoded while sampling
    assert leaf.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["clip", "hps_v2.1", "image_reward"])
def test_prompts_that_are_too_long_are_cut(fake_hub, images, name):
    PUBLISH[name](fake_hub)
    reward = load_reward(name, HubStore(), sizes=SIZES.get(name))
    long, longer = "cat " * 60, "cat " * 300
    scores = reward(images, reward.prepare([long, long]))
    assert torch.equal(reward(images, reward.prepare([longer, longer])), scores)


def test_image_reward_reads_words_as_bert_does(fake_hub):
    PUBLISH["image_reward"](fake_hub)
    reward = load_reward("image_reward", HubStore(), sizes=BLIP_SIZES)
    text = reward.prepare(["A cats dog", ""])
    assert text.tensors["ids"].shape == (2, PROMPT_LENGTH)
    assert text.tensors["ids"][:, :6].tolist() == [[2, 5, 6, 7, 8, 3], [2, 3, 0, 0, 0, 0]]
    assert text.tensors["mask"].sum(1).tolist() == [6, 2]


def test_scores_are_float32_in_any_precision(fake_hub, images):
    PUBLISH["clip"](fake_hub)
    reward = load_reward("clip", HubStore())
    exact = reward(images, reward.prepare(PROMPTS))
    rough = reward.bfloat16()(images, reward.prepare(PROMPTS))
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.5, rtol=0.1)


# ---------------------------------------------------------------- the aesthetic predictor


def test_the_aesthetic_predictor_takes_its_head_from_a_local_folder(fake_hub, images, tmp_path):
    head = publish_aesthetic(fake_hub)
    folder = tmp_path / "clip-vit-large-patch14"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes(fake_hub.files[("openai/clip-vit-large-patch14", name)])
    (tmp_path / HEAD.file.path).write_bytes(head)
    reward = load_reward("aesthetic", HubStore(local_dir=tmp_path))
    scores = reward(images, reward.prepare(PROMPTS))
    assert scores.shape == (2,)
    assert torch.equal(reward(images, reward.prepare(["else", "where"])), scores)
    assert fake_hub.downloads() == []


def test_without_a_local_folder_the_head_is_put_beside_the_caches(fake_hub, images):
    head = publish_aesthetic(fake_hub)
    with pytest.raises(MissingError, match="GitHub, not on the Hub") as caught:
        load_reward("aesthetic", HubStore())
    assert HEAD.url in caught.value.hint
    assert str(dimo_cache() / "rewards") in caught.value.hint
    assert fake_hub.requests == []
    (dimo_cache() / "rewards").mkdir(parents=True)
    (dimo_cache() / "rewards" / HEAD.file.path).write_bytes(head)
    reward = load_reward("aesthetic", HubStore())
    assert reward(images, reward.prepare(PROMPTS)).isfinite().all()


# ---------------------------------------------------------------- what goes wrong


def test_an_unknown_reward_is_refused_with_a_guess():
    for ask in (blank_reward, lambda name: load_reward(name, HubStore())):
        with pytest.raises(SpecError, match="'hps_v2' is not a known reward") as caught:
            ask("hps_v2")
        assert "Did you mean `hps_v2." in caught.value.hint


@pytest.mark.parametrize(
    ("name", "missing", "words"),
    [
        ("hps_v2.1", "HPS_v2.1_compressed.pt", r"xswu/HPSv2"),
        ("clip", "model.safetensors", r"None of 2 sources has these weights.*pytorch_model\.bin"),
        ("clip", "config.json", r"has no file `config\.json`"),
        ("image_reward", "vocab.txt", r"google-bert/bert-base-uncased"),
        ("image_reward", "ImageReward.pt", r"THUDM/ImageReward.*zai-org/ImageReward"),
    ],
)
def test_a_missing_file_is_named(fake_hub, name, missing, words):
    PUBLISH[name](fake_hub)
    fake_hub.files = {key: value for key, value in fake_hub.files.items() if key[1] != missing}
    with pytest.raises(MissingError, match=words) as caught:
        load_reward(name, HubStore(), sizes=SIZES.get(name))
    assert caught.value.exit_code == 3


def test_a_checkpoint_without_a_state_dict_is_refused(fake_hub):
    fake_hub.add("xswu/HPSv2", "HPS_v2.1_compressed.pt", pickled({"epoch": 1}))
    with pytest.raises(MissingError, match="it has no `state_dict`"):
        load_reward("hps_v2.1", HubStore(), sizes=CLIP_SIZES)


def test_weights_of_another_size_are_refused(fake_hub):
    PUBLISH["hps_v2.1"](fake_hub)
    with pytest.raises(MissingError, match="does not fit") as caught:
        load_reward("hps_v2.1", HubStore())
    assert "`hps_v2.1`" in caught.value.hint


@pytest.mark.parametrize("name", REWARDS)
def test_every_reward_says_what_it_needs(name):
    card = blank_reward(name).card
    assert card.name == name
    assert card.license
    assert card.scale_note
    assert card.parameters > (10**8 if card.weights.files else 10**5)  # embedded ones are small
    assert all(file.repo.count("/") == 1 for file in (*card.weights.files, *card.other_files))


def test_names_are_known_before_torch_is():
    code = "import sys, dimo_cli.rewards.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Plugin:
    """A package's entry point that loads a reward."""

    name = "constant"

    def load(self):
        return lambda store: torch.nn.Identity()


def test_a_reward_of_an_installed_package_is_known_by_its_name(monkeypatch):
    monkeypatch.setattr(registry, "REWARDS", dict(registry.REWARDS))
    found = {"dimo.rewards": [Plugin()]}
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found.get(group, []))
    registry.check_reward("constant")
    assert isinstance(load_reward("constant", HubStore()), torch.nn.Identity)


def test_two_rewards_of_one_name_are_refused():
    with pytest.raises(SpecError, match="There is a reward `clip` already"):
        registry.register_reward("clip", lambda store: None)
