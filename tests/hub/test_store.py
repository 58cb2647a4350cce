"""Published files: fetched once, verified, read safely; every failure is a sentence and exit 3."""

import hashlib
import io
import json
import pickle
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from dimo_cli.errors import MissingError
from dimo_cli.hub.access import dimo_cache, download_cache
from dimo_cli.hub.loading import fill, on_meta
from dimo_cli.hub.published import HubFile, Published
from dimo_cli.hub.store import HubStore, cached_path
from tests.helpers.fake_hub import COMMIT, TOKEN

WEIGHTS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4)}
PICKLE = HubFile("owner/net", "folder/net.pth")
SAFE = HubFile("owner/net", "net.safetensors")


def pickled(content):
    """Bytes of a torch file."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.fixture
def hub(fake_hub):
    fake_hub.add("owner/net", "folder/net.pth", pickled({"model": WEIGHTS, "step": 7}))
    fake_hub.add("owner/net", "net.safetensors", save(WEIGHTS))
    fake_hub.add("owner/net", "config.json", json.dumps({"width": 3}).encode())
    fake_hub.add("owner/net", "config.yaml", b"model: {width: 3}")
    return fake_hub


def assert_weights(weights):
    assert weights.keys() == WEIGHTS.keys()
    for name, tensor in WEIGHTS.items():
        assert torch.equal(weights[name], tensor)


def cached_files():
    """Every file of converted weights."""
    return [path for path in (dimo_cache() / "weights").rglob("*") if path.is_file()]


def test_a_pickle_is_converted_once_and_keeps_the_hash_of_its_source(hub):
    said = []
    published = Published((PICKLE,), inside="model")
    assert_weights(HubStore(say=said.append).weights(published))
    (converted,) = cached_files()
    assert converted.suffix == ".safetensors"
    written = converted.stat().st_mtime_ns
    assert_weights(HubStore(say=said.append).weights(published))
    assert converted.stat().st_mtime_ns == written
    assert hub.downloads() == ["owner/net/folder/net.pth"]
    assert len(said) == 1
    assert "Downloading owner/net/folder/net.pth" in said[0]


def test_a_conversion_that_only_others_may_read_is_made_again(hub, monkeypatch):
    published = Published((PICKLE,), inside="model")
    HubStore().weights(published)
    answers = [PermissionError(13, "Permission denied")]

    def read(path):
        if answers:
            raise answers.pop()
        return load_file(path)

    monkeypatch.setattr("dimo_cli.hub.weights.load_file", read)
    assert_weights(HubStore().weights(published))


def test_safetensors_are_used_as_they_are(hub):
    assert_weights(HubStore().weights(Published((SAFE,))))
    assert cached_files() == []


def test_wrapper_prefixes_are_stripped_and_names_converted(hub):
    hub.add("owner/net", "w.bin", pickled({"module._orig_mod.old.a": torch.ones(1)}))
    published = Published((HubFile("owner/net", "w.bin"),), convert=lambda w: {"new": w["old.a"]})
    assert HubStore().weights(published).keys() == {"new"}


def test_configs_are_read_from_json_and_yaml(hub):
    store = HubStore()
    assert store.config(HubFile("owner/net", "config.json")) == {"width": 3}
    assert store.config(HubFile("owner/net", "config.yaml")) == {"model": {"width": 3}}
    assert store.revision_of(Published((SAFE,))) == COMMIT


def test_the_first_source_that_exists_is_used(hub):
    published = Published((HubFile("gone/away", "x.safetensors"), HubFile("owner/net", "no"), SAFE))
    assert_weights(HubStore().weights(published))


def test_when_no_source_exists_all_are_named(hub):
    published = Published((HubFile("gone/away", "x.bin"), HubFile("owner/net", "no.bin")))
    with pytest.raises(MissingError, match=r"None of 2 sources.*gone/away.*no\.bin"):
        HubStore().weights(published)


def test_a_dropped_connection_is_resumed_where_it_broke(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 256)
    hub.faults["net.pth"] = ["", "drop"]  # the first request asks for the headers
    assert_weights(HubStore().weights(Published((PICKLE,), inside="model")))
    assert hub.ranges
    assert int(hub.ranges[0].removeprefix("bytes=").rstrip("-")) > 0


@pytest.mark.parametrize("status", ["429", "500", "503"])
def test_a_passing_server_error_is_survived(hub, status):
    hub.faults["net.pth"] = [status, status]
    assert_weights(HubStore().weights(Published((PICKLE,), inside="model")))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("always 401", "no repository `owner/net`|refuses access"),
        ("always 403", "refuses access to `owner/net`"),
        ("always 429", "asks to slow down"),
        ("always 500", "answers 500"),
        ("always wrong bytes", "arrived damaged"),
    ],
)
def test_a_lasting_fault_is_a_sentence_and_leaves_nothing_behind(hub, fault, words):
    hub.faults["net.pth"] = [fault]
    with pytest.raises(MissingError, match=words) as caught:
        HubStore().weights(Published((PICKLE,), inside="model"))
    assert caught.value.hint
    assert caught.value.exit_code == 3
    assert cached_files() == []
    assert not list(download_cache().rglob("*.pth"))
    hub.faults.clear()
    assert_weights(HubStore().weights(Published((PICKLE,), inside="model")))


def test_a_missing_repository_file_or_revision_is_named(hub):
    with pytest.raises(MissingError, match="no repository `no/body`"):
        HubStore().locate(HubFile("no/body", "x"))
    with pytest.raises(MissingError, match="no file `x`"):
        HubStore().locate(HubFile("owner/net", "x"))
    with pytest.raises(MissingError, match="no revision `v9`") as caught:
        HubStore(revisions={"owner/net": "v9"}).locate(SAFE)
    assert "the `@` of a student, or `teacher.revision` of a teacher" in caught.value.hint


def test_a_gated_repository_asks_for_a_login(hub, monkeypatch):
    hub.gated.add("owner/net")
    with pytest.raises(MissingError, match="gated") as caught:
        HubStore().locate(SAFE)
    assert "hf auth login" in caught.value.hint
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert HubStore().locate(SAFE).path.is_file()


def test_without_a_network_the_sentence_names_the_ways_out(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MissingError, match="Cannot reach") as caught:
        HubStore().locate(SAFE)
    assert "--local-dir" in caught.value.hint


def test_offline_uses_the_cache_and_says_what_is_not_in_it(hub, monkeypatch):
    HubStore().weights(Published((PICKLE,), inside="model"))
    seen = len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert_weights(HubStore().weights(Published((PICKLE,), inside="model")))
    with pytest.raises(MissingError, match=r"not in the cache.*HF_HUB_OFFLINE"):
        HubStore().locate(SAFE)
    assert len(hub.requests) == seen


def test_a_local_folder_needs_no_network(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "net.safetensors").write_bytes(save(WEIGHTS))
    store = HubStore(local_dir=tmp_path)
    assert_weights(store.weights(Published((SAFE,))))
    assert store.revision_of(Published((SAFE,))) == "local"
    with pytest.raises(MissingError, match=r"has no `owner/net/folder/net\.pth`") as caught:
        store.weights(Published((PICKLE,)))
    assert "owner/net/folder/net.pth" in caught.value.hint


class Bomb:
    """Runs code when it is unpickled freely."""

    def __reduce__(self):
        return (Path("was_here").write_text, ("bad",))


def test_a_poisoned_pickle_is_refused_unread(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub.add("owner/net", "folder/net.pth", pickled({"model": Bomb()}))
    with pytest.raises(MissingError, match="never loads"):
        HubStore().weights(Published((PICKLE,), inside="model"))
    assert not (tmp_path / "was_here").exists()


@pytest.mark.parametrize(
    "content",
    [
        pickled({"model": WEIGHTS})[:-200],
        b"<html>not found</html>",
        b"",
        pickle.dumps([1, 2], protocol=2),
        pickled({"other": WEIGHTS}),
        pickled({"model": {"a": "text"}}),
        pickled([1]),
    ],
    ids=["truncated", "a web page", "empty", "a list", "no model in it", "no tensors", "no dict"],
)
def test_a_wrong_pickle_is_refused_and_forgotten(hub, content):
    hub.add("owner/net", "folder/net.pth", content)
    with pytest.raises(MissingError, match="cannot be read"):
        HubStore().weights(Published((PICKLE,), inside="model"))
    assert cached_files() == []
    hub.add("owner/net", "folder/net.pth", pickled({"model": WEIGHTS}))
    assert_weights(HubStore().weights(Published((PICKLE,), inside="model")))


@pytest.mark.parametrize("content", [save(WEIGHTS)[:-8], b"\xff" * 64, b""])
def test_wrong_safetensors_are_refused_and_forgotten(hub, content):
    hub.add("owner/net", "net.safetensors", content)
    with pytest.raises(MissingError, match="cannot be read"):
        HubStore().weights(Published((SAFE,)))
    hub.add("owner/net", "net.safetensors", save(WEIGHTS))
    assert_weights(HubStore().weights(Published((SAFE,))))


@pytest.mark.parametrize("file", [PICKLE, SAFE])
def test_a_lack_of_memory_while_weights_are_read_is_no_damage(hub, file):
    lacking = Published((file,), convert=lambda weights: {"a": torch.empty(2**50)})
    with pytest.raises(RuntimeError, match="memory"):
        HubStore().weights(lacking if file is SAFE else replace(lacking, inside="model"))
    assert cached_path(file)


@pytest.mark.parametrize(
    ("reader", "error"),
    [
        ("load_torch", MemoryError()),
        ("load_file", SafetensorError("Cannot allocate memory (os error 12)")),
    ],
)
def test_nor_is_one_while_a_pickle_or_what_became_of_it_is_read(hub, monkeypatch, reader, error):
    published = Published((PICKLE,), inside="model")
    if reader == "load_file":
        HubStore().weights(published)
    before = cached_files()
    monkeypatch.setattr(f"dimo_cli.hub.weights.{reader}", mock.Mock(side_effect=error))
    with pytest.raises(type(error)):
        HubStore().weights(published)
    assert cached_path(PICKLE)
    assert cached_files() == before


def test_a_file_that_dimo_knows_is_never_forgotten(hub):
    content = hub.files["owner/net", "net.safetensors"]
    known = HubFile("owner/net", "net.safetensors", sha256=hashlib.sha256(content).hexdigest())

    def fails(weights):
        raise RuntimeError("shape '[3]' is invalid")

    with pytest.raises(MissingError, match="though it is the file that dimo knows") as caught:
        HubStore().weights(Published((known,), convert=fails))
    assert str(cached_path(known)) in caught.value.hint


def test_a_file_that_was_replaced_on_the_hub_is_refused_until_it_is_pinned(hub):
    known = HubFile("owner/net", "net.safetensors", sha256="0" * 64)
    with pytest.raises(MissingError, match="replaced on the Hub") as caught:
        HubStore().weights(Published((known,)))
    assert "teacher.revision" in caught.value.hint
    assert hub.downloads() == []
    store = HubStore(revisions={"owner/net": COMMIT}, known_hashes=False)
    assert_weights(store.weights(Published((known,))))


def test_a_full_disk_leaves_no_half_written_file(hub, monkeypatch):
    import dimo_cli.hub.weights as module

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(MissingError, match=r"disk of .* is full") as caught:
        HubStore().weights(Published((PICKLE,), inside="model"))
    assert "HF_HOME" in caught.value.hint
    assert cached_files() == []


def test_a_full_disk_while_downloading_is_said_so(hub, monkeypatch):
    import huggingface_hub

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    with pytest.raises(MissingError, match=r"disk of .* is full"):
        HubStore().locate(SAFE)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"weight": torch.ones(2, 3)}, "lacks bias"),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(2), "x": torch.ones(1)}, "unknown x"),
        ({"weight": torch.ones(3, 3), "bias": torch.ones(2)}, r"weight is \[3, 3\], not \[2, 3\]"),
    ],
)
def test_weights_fit_exactly_or_are_refused(weights, words):
    with pytest.raises(MissingError, match=words):
        fill(on_meta(lambda: nn.Linear(3, 2)), weights, "`net`")


def test_all_files_of_a_repository_are_read_at_one_commit_also_while_it_is_pushed_to(hub):
    store = HubStore()
    assert store.config(HubFile("owner/net", "config.json")) == {"width": 3}
    newer = {"net.safetensors": save({"a": torch.zeros(1)}), "config.yaml": b"model: {width: 9}"}
    newest = hub.push("owner/net", newer)
    assert_weights(store.weights(Published((SAFE,))))
    assert store.config(HubFile("owner/net", "config.yaml")) == {"model": {"width": 3}}
    assert store.revision_of(Published((SAFE,))) == COMMIT
    later = HubStore()
    assert later.weights(Published((SAFE,))).keys() == {"a"}
    assert later.revision_of(Published((SAFE,))) == newest


def test_a_model_and_a_dataset_of_one_name_each_have_their_commit(hub):
    hub.add("datasets/owner/net", "config.json", b"{}")
    hub.push("owner/net", {})
    store = HubStore()
    store.config(HubFile("owner/net", "config.json"))
    assert store.config(HubFile("owner/net", "config.json", repo_type="dataset")) == {}


def test_what_is_in_the_cache_is_not_said_to_be_downloaded_again_after_a_push(hub):
    HubStore().weights(Published((SAFE,)))
    hub.push("owner/net", {"README.md": b"new"})
    said = []
    assert_weights(HubStore(say=said.append).weights(Published((SAFE,))))
    assert said == []
    assert hub.downloads() == ["owner/net/net.safetensors"]
