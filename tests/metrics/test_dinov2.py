"""DINOv2: the published files under our names, from a Hub, a mirror or a folder."""

import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load, save
from torchvision.transforms.functional import normalize, to_tensor

from dimo_cli.errors import MissingError
from dimo_cli.files.writing import file_sha256
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.dinov2 import MEAN, REPO, SIDE, STD, load_dinov2, stretch_positions

TRAINED_SIDE = 5 * 14  # positions on a 5 x 5 grid


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    import huggingface_hub.utils._http as http

    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """transformers' network of a tiny size, and its files as they would be on the Hub."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=TRAINED_SIDE
    )
    model = Dinov2Model(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():  # scales of one would hide a mistake
            tensor.copy_(torch.rand(tensor.shape) + 0.2 if "lambda" in name else tensor)
            if "position" in name or name.endswith("bias") or "cls_token" in name:
                tensor.add_(0.3 * torch.randn(tensor.shape))
    folder = tmp_path_factory.mktemp("dinov2")
    model.save_pretrained(folder)
    assert "encoder.layer.0.attention.attention.query.weight" in load(
        (folder / "model.safetensors").read_bytes()
    ), "transformers no longer writes the published names"
    return model, {name: (folder / name).read_bytes() for name in ("config.json", WEIGHTS)}


WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(fake_hub, published):
    for name, content in published[1].items():
        fake_hub.add(REPO, name, content)
    return fake_hub


def noise(height=90, width=60):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, height, width), generator=generator, dtype=torch.uint8)


@torch.no_grad()
def expected(model, images):
    """The class token as dgm-eval takes it: PIL, torchvision and transformers, step by step."""
    pixels = []
    for image in images:
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        pixels.append(normalize(to_tensor(picture), MEAN, STD))
    positions = model.embeddings.position_embeddings
    stretched = torch.nn.Parameter(stretch_positions(positions, SIDE // 14))
    model.embeddings.position_embeddings = stretched
    try:
        return model(torch.stack(pixels)).pooler_output
    finally:
        model.embeddings.position_embeddings = positions


def test_features_are_those_of_the_published_network(hub, published):
    network = load_dinov2(HubStore())
    found = network(noise())
    assert found.logits is None
    assert torch.allclose(found.vectors, expected(published[0], noise()), rtol=1e-5, atol=2e-6)
    different = found.vectors.std(0).mean()
    assert different > 1e-4, "images look all the same to this network"


def test_positions_are_stretched_as_by_dinov2s_own_code():
    """A tenth of a patch more than the grid asks for, which is what published distances have."""
    positions = torch.randn(1, 1 + 25, 4, generator=torch.Generator().manual_seed(0))
    square = positions[:, 1:].reshape(1, 5, 5, 4).permute(0, 3, 1, 2)
    theirs = F.interpolate(square, scale_factor=(16.1 / 5, 16.1 / 5), mode="bicubic")
    found = stretch_positions(positions, 16)
    assert torch.equal(found[:, 0], positions[:, 0])
    assert torch.allclose(found[:, 1:], theirs.permute(0, 2, 3, 1).reshape(1, 256, 4))
    plain = F.interpolate(square, size=(16, 16), mode="bicubic").permute(0, 2, 3, 1)
    assert not torch.allclose(found[:, 1:], plain.reshape(1, 256, 4), atol=1e-3)
    assert stretch_positions(positions, 5) is positions


def test_the_network_says_what_it_is(hub, published, tmp_path):
    network = load_dinov2(HubStore())
    (tmp_path / WEIGHTS).write_bytes(published[1][WEIGHTS])
    assert network.sha256 == file_sha256(tmp_path / WEIGHTS)
    assert (network.name, network.resize, network.dimensions) == (
        "dinov2-large",
        "pil_bicubic_224",
        32,
    )
    assert not any(p.requires_grad for p in network.parameters())


def test_a_local_folder_and_the_offline_cache_give_the_same(hub, published, tmp_path, monkeypatch):
    online = load_dinov2(HubStore())
    for name, content in published[1].items():
        (tmp_path / name).write_bytes(content)
    local = load_dinov2(HubStore(local_dir=tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sent = list(hub.requests)
    offline = load_dinov2(HubStore())
    assert hub.requests == sent
    for other in (local, offline):
        assert torch.equal(other(noise()).vectors, online(noise()).vectors)
        assert other.sha256 == online.sha256


def test_the_pickle_is_read_where_there_is_no_safetensors_file(fake_hub, published):
    from tests.helpers.published import pickled

    fake_hub.add(REPO, "config.json", published[1]["config.json"])
    fake_hub.add(REPO, "pytorch_model.bin", pickled(load(published[1][WEIGHTS])))
    found = load_dinov2(HubStore())(noise()).vectors
    assert torch.allclose(found, expected(published[0], noise()), rtol=1e-4, atol=1e-5)


def change(weights, kind):
    weights = dict(weights)
    if kind == "lacks":
        del weights["encoder.layer.1.attention.attention.key.bias"]
    elif kind == "lacks a scale":
        del weights["encoder.layer.1.layer_scale2.lambda1"]
    elif kind == "unknown":
        weights["classifier.weight"] = torch.zeros(2, 2)
    else:
        weights["layernorm.weight"] = torch.zeros(16)
    return save(weights)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("lacks", "does not fit"),
        ("unknown", "does not fit"),
        ("another width", "does not fit"),
        ("lacks a scale", "layer_scale2"),
    ],
)
def test_weights_load_strictly(hub, published, kind, said):
    hub.add(REPO, WEIGHTS, change(load(published[1][WEIGHTS]), kind))
    with pytest.raises(MissingError, match=said):
        load_dinov2(HubStore())


@pytest.mark.parametrize(
    "broken",
    [
        {"patch_size": 16},
        {"use_swiglu_ffn": True},
        {"hidden_size": None},
        {"num_hidden_layers": "two"},
    ],
)
def test_another_kind_of_config_is_refused(hub, published, broken):
    config = {**json.loads(published[1]["config.json"]), **broken}
    if config["hidden_size"] is None:
        del config["hidden_size"]
    hub.add(REPO, "config.json", json.dumps(config).encode())
    with pytest.raises(MissingError, match="config"):
        load_dinov2(HubStore())


def test_a_truncated_file_is_refused_and_not_kept(hub, published):
    hub.add(REPO, WEIGHTS, published[1][WEIGHTS][:-100])
    with pytest.raises(MissingError, match="cannot be read"):
        load_dinov2(HubStore())
    hub.add(REPO, WEIGHTS, published[1][WEIGHTS])
    assert load_dinov2(HubStore()).dimensions == 32


def test_an_empty_folder_says_where_it_looked(tmp_path):
    with pytest.raises(MissingError, match="has no") as error:
        load_dinov2(HubStore(local_dir=tmp_path))
    assert "Looked for" in error.value.hint
