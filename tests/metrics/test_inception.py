"""The Inception network: from either file, as clean-fid runs it, and never without saying so."""

import io
import re

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.against_clean_fid import (
    SCRIPT,
    STATE_DICT,
    clean_fid_distances,
    clean_fid_features,
    clean_fid_network,
    our_distances,
    our_features,
    taken_as_published,
    write_features,
    write_images,
)
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.files.writing import file_sha256
from dimo_cli.metrics import inception
from dimo_cli.metrics.inception import CLASSES, DIMENSIONS, FidInception, load_inception

IMAGES, SIDE = 60, 48


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Both files of the same random weights."""
    return write_features(tmp_path_factory.mktemp("whole"), "inception").parent


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A file with the interface of the published script, and little behind it."""
    return write_features(tmp_path_factory.mktemp("small"), "small")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for seed, name in enumerate(("real", "fake"), start=1):
        write_images(root / name, IMAGES, SIDE, seed)
    return [root / "real", root / "fake"]


@pytest.fixture(autouse=True)
def _empty_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(inception.urllib.request, "urlopen", no_network)


def no_network(*args, **kwargs):
    raise AssertionError("nobody asked for a download")


def load_script(mode, path):
    """The network of a script with random weights, which stands for the published one."""
    with taken_as_published(path):
        return load_inception(mode, path)


def noise(count=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 40, 40), generator=generator, dtype=torch.uint8)


def test_both_files_hold_the_same_network(whole):
    images = noise()
    a = load_inception("clean", whole / STATE_DICT)(images)
    b = load_script("clean", whole / SCRIPT)(images)
    assert a.vectors.shape == (2, DIMENSIONS)
    assert a.logits.shape == (2, CLASSES)
    assert torch.allclose(a.vectors, b.vectors, rtol=1e-4, atol=1e-5)
    assert a.vectors.std(0).mean() > 1e-2, "images look all the same to this network"


def test_the_state_dict_gives_the_features_of_clean_fids_own_network(whole, tmp_path, monkeypatch):
    """clean-fid builds it from the file in torch's cache, which is where pytorch-fid leaves it."""
    from cleanfid.features import feature_extractor
    from cleanfid.resize import build_resizer

    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / STATE_DICT).write_bytes((whole / STATE_DICT).read_bytes())
    theirs = feature_extractor("pytorch_inception", torch.device("cpu"), use_dataparallel=False)
    resized = [build_resizer("legacy_pytorch")(i.permute(1, 2, 0).numpy()) for i in noise()]
    expected = theirs(torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2))
    ours = load_inception("legacy_pytorch")
    assert ours.sha256 == file_sha256(whole / STATE_DICT)
    assert torch.allclose(ours(noise()).vectors, expected, rtol=1e-4, atol=1e-5)


def test_torchvisions_network_is_another_one(whole):
    from torchvision.models.inception import Inception3

    other = Inception3(num_classes=CLASSES, aux_logits=False, init_weights=False)
    other.load_state_dict(torch.load(whole / STATE_DICT, weights_only=True))
    other.fc, other.dropout = nn.Identity(), nn.Identity()
    images = (torch.rand(1, 3, 299, 299, generator=torch.Generator().manual_seed(0)) - 0.5) * 2
    ours = load_inception("clean", whole / STATE_DICT)
    with torch.no_grad():
        assert not torch.allclose(other.eval()(images), ours.trunk(images).flatten(1), rtol=1e-2)


@pytest.mark.parametrize("mode", ["clean", "legacy_tensorflow"])
def test_fid_and_kid_of_a_folder_are_those_of_clean_fid(small, folders, mode):
    ours, theirs = load_script(mode, small), clean_fid_network(small, mode)
    found = [our_features(folder, ours) for folder in folders]
    expected = [torch.from_numpy(clean_fid_features(f, theirs, mode, 0)) for f in folders]
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4)
    # Of some features only, and by one distance: of all of them it would take a minute.
    ours, theirs = (our_distances([part[:, ::32] for part in both]) for both in (found, expected))
    assert ours["fid"] == pytest.approx(theirs["fid"], rel=1e-4)
    assert ours["kid"] == pytest.approx(theirs["kid"], rel=1e-4)


@pytest.mark.slow
def test_clean_fids_own_distances_agree(small, folders):
    theirs = clean_fid_network(small, "clean")
    found = [our_features(folder, load_script("clean", small)) for folder in folders]
    expected = [torch.from_numpy(clean_fid_features(f, theirs, "clean", 0)) for f in folders]
    ours, theirs = our_distances(found), clean_fid_distances(expected)
    assert ours["fid"] == pytest.approx(theirs["fid"], rel=1e-4)
    assert ours["kid"] == pytest.approx(theirs["kid"], rel=1e-4)


def test_logits_have_no_bias_and_are_those_behind_the_scripts_probabilities(small):
    images = noise()
    found = load_script("legacy_tensorflow", small)(images)
    script = torch.jit.load(str(small))
    with torch.no_grad():
        unbiased, biased = script(images, no_output_bias=True), script(images)
    assert torch.allclose(found.logits.softmax(1), unbiased, rtol=1e-3, atol=1e-7)
    assert not torch.allclose(found.logits.softmax(1), biased, rtol=1e-3, atol=1e-7)


def test_a_network_says_what_it_is(small):
    network = load_script("legacy_tensorflow", small)
    assert network.name == "inception-2015-12-05"
    assert network.resize == "legacy_tensorflow"
    assert network.sha256 == file_sha256(small)
    assert network.dimensions == DIMENSIONS
    assert not any(p.requires_grad for p in network.parameters())
    assert not network.training


def test_the_file_comes_from_the_path_then_the_variable_then_a_cache(small, tmp_path, monkeypatch):
    cached = tmp_path / "hf" / "dimo" / "metrics" / SCRIPT
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"cached")
    assert inception.find_file(None) == cached
    monkeypatch.setenv("DIMO_INCEPTION", str(small))
    assert inception.find_file(None) == small
    named = tmp_path / "mine.pt"
    named.write_bytes(b"named")
    assert inception.find_file(named) == named
    assert inception.find_file(small.parent) == small, "a folder that has a file of a known name"


def test_without_a_file_the_sentence_names_both_and_the_option():
    with pytest.raises(MissingError) as error:
        load_inception()
    assert STATE_DICT in error.value.message
    assert SCRIPT in error.value.message
    assert "--inception" in error.value.hint
    assert error.value.exit_code == 3


def test_offline_nothing_is_asked_for_even_with_leave_to_download(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingError, match="HF_HUB_OFFLINE"):
        load_inception(download=True)


def test_a_download_is_kept_when_its_hash_is_right(whole, monkeypatch):
    content = (whole / STATE_DICT).read_bytes()
    published = {STATE_DICT: ("https://x.y/z", file_sha256(whole / STATE_DICT))}
    monkeypatch.setattr(inception, "PUBLISHED", published)
    monkeypatch.setattr(inception.urllib.request, "urlopen", lambda *a, **k: io.BytesIO(content))
    said = []
    path = inception.download_file(said.append)
    assert path.read_bytes() == content
    assert "Downloading" in said[0]
    assert [file.name for file in path.parent.iterdir()] == [STATE_DICT]
    assert inception.find_file(None) == path


@pytest.mark.parametrize("fault", ["wrong bytes", "no network"])
def test_a_failed_download_leaves_nothing_behind(fault, monkeypatch, tmp_path):
    def answer(*args, **kwargs):
        if fault == "no network":
            raise OSError("no route to host")
        return io.BytesIO(b"<html>")

    monkeypatch.setattr(inception.urllib.request, "urlopen", answer)
    with pytest.raises(MissingError, match=STATE_DICT) as error:
        load_inception(download=True)
    assert "--inception" in error.value.hint
    assert not list((tmp_path / "hf").rglob("*.pth*"))


def torchvision_like(weights):
    return {**weights, "fc.weight": torch.zeros(1000, DIMENSIONS), "fc.bias": torch.zeros(1000)}


def extra_key(weights):
    return {**weights, "AuxLogits.fc.weight": torch.zeros(1)}


def lacking_key(weights):
    return {
        name: tensor for name, tensor in weights.items() if name != "Mixed_7c.branch1x1.bn.bias"
    }


@pytest.mark.parametrize("change", [torchvision_like, extra_key, lacking_key])
def test_another_networks_weights_are_refused(whole, tmp_path, change):
    weights = torch.load(whole / STATE_DICT, weights_only=True)
    torch.save(change(weights), tmp_path / "other.pth")
    with pytest.raises(MissingError, match="does not fit") as error:
        load_inception("clean", tmp_path / "other.pth")
    assert STATE_DICT in error.value.hint


def test_old_files_without_training_counters_load(whole, tmp_path):
    weights = torch.load(whole / STATE_DICT, weights_only=True)
    old = {name: t for name, t in weights.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(weights)
    torch.save(old, tmp_path / "old.pth")
    a = load_inception("clean", whole / STATE_DICT)(noise(1)).vectors
    assert torch.equal(load_inception("clean", tmp_path / "old.pth")(noise(1)).vectors, a)


class Runs:
    def __reduce__(self):
        return (print, ("this ran",))


def foreign_script(path):
    torch.jit.script(nn.Sequential(nn.Linear(2, 2))).save(str(path))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"<html>not found</html>"),
        lambda path: path.write_bytes(b"PK\x03\x04 a zip that breaks off"),
        lambda path: torch.save([1, 2], path),
        lambda path: torch.save({"fc.weight": Runs()}, path),
        lambda path: torch.save({"fc.weight": 3}, path),
        foreign_script,
    ],
    ids=["empty", "html", "truncated", "list", "code", "number", "other-script"],
)
def test_a_file_that_is_no_such_network_is_refused(write, tmp_path, capsys):
    path = tmp_path / "inception.pt"
    write(path)
    with pytest.raises(MissingError, match=re.escape(str(path))) as error:
        load_inception("clean", path)
    assert error.value.hint
    assert "this ran" not in capsys.readouterr().out


def test_a_program_is_only_loaded_when_it_is_the_published_one(small, monkeypatch):
    """Loading a script can run it: its hash is compared first."""
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("it was loaded"))
    with pytest.raises(MissingError, match="holds a program, and not that of the pub") as error:
        load_inception("clean", small)
    assert "not f58cb9b6ec32" in error.value.message
    assert "https://nvlabs-fi-cdn.nvidia.com" in error.value.hint
    assert STATE_DICT in error.value.hint


def test_a_truncated_script_is_refused(small, tmp_path):
    (tmp_path / SCRIPT).write_bytes(small.read_bytes()[:-5000])
    with pytest.raises(MissingError, match="truncated"):
        load_inception("clean", tmp_path / SCRIPT)


@pytest.mark.parametrize("by", ["option", "variable"])
def test_a_path_to_nothing_is_refused_by_the_name_of_where_it_came_from(by, tmp_path, monkeypatch):
    nothing = tmp_path / "nothing.pt"
    if by == "variable":
        monkeypatch.setenv("DIMO_INCEPTION", str(nothing))
    with pytest.raises(MissingError) as error:
        load_inception("clean", nothing if by == "option" else None)
    assert ("--inception" if by == "option" else "DIMO_INCEPTION") in error.value.message


def test_an_unknown_resize_is_refused_before_anything_is_read():
    with pytest.raises(SpecError, match="known resize"):
        load_inception("bilinear")


def test_the_trunk_ends_before_the_classes():
    names = [name for name, _ in FidInception().named_children()]
    assert names[-1] == "fc"
    assert len(FidInception().trunk()) == len(names) - 2, "dropout and classes are left out"
