"""Feature networks by name, and the small ones that ship in the package."""

import pytest
import torch
from safetensors.torch import save_file

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.features import load_digits_features
from dimo_cli.metrics.frechet import RunningGaussian, frechet_distance
from dimo_cli.metrics.networks import (
    LOADERS,
    NetworkSource,
    ShapesFeatures,
    ShapesNetwork,
    load_network,
    load_shapes,
)
from dimo_cli.metrics.references import builtin_reference
from dimo_cli.teachers.digits import DigitsTokenizer, training_tokens


def as_bytes(images):
    return ((images + 1) * 127.5).round().byte()


@pytest.fixture
def shapes(tmp_path):
    torch.manual_seed(0)
    half = {name: tensor.half() for name, tensor in ShapesFeatures().state_dict().items()}
    save_file(half, tmp_path / "shapes_features.safetensors")
    return load_shapes(tmp_path / "shapes_features.safetensors")


def test_bytes_of_digits_have_the_features_of_the_digits_themselves():
    tokens, _ = (part[:100] for part in training_tokens())
    images = DigitsTokenizer().decode(tokens)
    plain = load_digits_features()
    expected, logits = plain(images)
    found = load_network("digits")(as_bytes(images))
    assert torch.allclose(found.vectors, expected, atol=1e-6)
    assert torch.allclose(found.logits, logits - plain.classify.bias, atol=1e-5)


def test_real_digits_as_bytes_are_at_no_distance_from_the_reference():
    running = RunningGaussian(64)
    running.add(
        load_network("digits")(as_bytes(DigitsTokenizer().decode(training_tokens()[0]))).vectors
    )
    assert abs(frechet_distance(running.gaussian(), builtin_reference("digits").gaussian)) < 1e-6


def test_every_network_says_what_it_is(shapes):
    for network in (load_network("digits"), shapes):
        assert network.name
        assert len(network.sha256) == 64
        assert network.resize
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())


def test_the_network_of_shapes_is_small_and_has_a_class_for_each_shape_in_each_color(shapes):
    assert sum(p.numel() for p in ShapesFeatures().parameters()) < 150_000
    assert not any("classify.bias" in name for name in ShapesFeatures().state_dict())
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    found = shapes(images)
    assert found.vectors.shape == (3, 64)
    assert found.logits.shape == (3, 18)
    assert found.vectors.dtype == torch.float32


def test_without_its_file_shapes_says_how_to_make_it(tmp_path):
    with pytest.raises(MissingError, match="feature network of `shapes`") as error:
        load_shapes(tmp_path / "none.safetensors")
    assert "train_shapes_features.py" in error.value.hint


@pytest.mark.parametrize("size", [(16, 16), (8, 9), (256, 256)])
def test_digits_look_at_nothing_but_digits(size):
    with pytest.raises(SpecError, match=f"these are {size[1]}x{size[0]}"):
        load_network("digits")(torch.zeros(2, 3, *size, dtype=torch.uint8))


def test_shapes_look_at_nothing_but_their_pictures(shapes):
    with pytest.raises(SpecError, match="32x32"):
        shapes(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))


def test_an_unknown_network_is_refused_with_the_nearest_name():
    with pytest.raises(SpecError, match="known feature network") as error:
        load_network("inceptoin")
    assert "Did you mean `inception`?" in error.value.hint


def test_published_networks_are_not_asked_for_without_need(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert list(LOADERS) == ["inception", "dinov2", "digits", "shapes", "emoji"]
    with pytest.raises(MissingError, match="Inception"):
        load_network("inception")
    with pytest.raises(MissingError, match="dinov2"):
        load_network("dinov2", NetworkSource(store=HubStore(local_dir=tmp_path)))


def test_a_network_is_a_module_that_moves(shapes):
    assert isinstance(shapes.to("cpu", torch.float32), ShapesNetwork)
