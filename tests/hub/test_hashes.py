"""A file whose hash is known has that hash, wherever it is from; only the user says otherwise."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import save

from dimo_cli.errors import MissingError
from dimo_cli.hub import hashes
from dimo_cli.hub.access import dimo_cache, download_cache
from dimo_cli.hub.published import HubFile, Published
from dimo_cli.hub.store import HubStore
from tests.helpers.fake_hub import COMMIT

GOOD, BAD = save({"a": torch.ones(3)}), save({"a": torch.zeros(3)})
KNOWN = HubFile("owner/net", "net.safetensors", sha256=hashlib.sha256(GOOD).hexdigest())
PUBLISHED = Published((KNOWN,))
ANOTHER = "is not the file that dimo knows"


@pytest.fixture
def hub(fake_hub):
    fake_hub.add("owner/net", "net.safetensors", GOOD)
    return fake_hub


@pytest.fixture
def folder(tmp_path):
    """A local folder with another file than dimo knows."""
    (tmp_path / "net.safetensors").write_bytes(BAD)
    return tmp_path


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files whose bytes are read for a hash."""
    names, find = [], hashes.file_sha256

    def watched(path):
        names.append(path.name)
        return find(path)

    monkeypatch.setattr(hashes, "file_sha256", watched)
    return names


def test_a_mirror_is_not_believed_what_it_says_of_the_hash(hub):
    hub.add("owner/net", "net.safetensors", BAD)
    hub.headers = {"ETag": f'"{KNOWN.sha256}"', "X-Linked-Etag": f'"{KNOWN.sha256}"'}
    with pytest.raises(MissingError, match="arrived damaged"):
        HubStore().weights(PUBLISHED)
    hub.headers = {"ETag": '"1234"', "X-Linked-Etag": '"1234"'}  # no hash of the bytes at all
    with pytest.raises(MissingError, match=ANOTHER):
        HubStore().weights(PUBLISHED)


def test_a_mirror_is_not_believed_after_the_first_download_either(hub):
    HubStore().weights(PUBLISHED)
    hub.push("owner/net", {"net.safetensors": BAD})
    hub.headers = {"ETag": f'"{"0" * 64}"', "X-Linked-Etag": f'"{"0" * 64}"'}
    with pytest.raises(MissingError, match="arrived damaged"):
        HubStore().weights(Published((HubFile("owner/net", "net.safetensors"),)))


def test_what_changed_in_the_cache_is_noticed(hub):
    HubStore().weights(PUBLISHED)
    (blob,) = download_cache().glob("models--owner--net/blobs/*")
    blob.write_bytes(BAD)
    with pytest.raises(MissingError, match="its bytes do not match the hash"):
        HubStore().weights(PUBLISHED)
    assert torch.equal(HubStore().weights(PUBLISHED)["a"], torch.ones(3))


def test_a_file_in_a_local_folder_must_be_the_one_that_is_known(folder):
    with pytest.raises(MissingError, match=ANOTHER) as caught:
        HubStore(folder).weights(PUBLISHED)
    assert str(folder) in caught.value.message
    assert "--set teacher.revision=local" in caught.value.hint
    (folder / "net.safetensors").write_bytes(GOOD)
    assert torch.equal(HubStore(folder).weights(PUBLISHED)["a"], torch.ones(3))


def test_a_file_is_hashed_once_as_long_as_it_stays_the_same(hub, folder, hashed):
    for _ in range(2):
        HubStore().weights(PUBLISHED)
    assert len(hashed) == 1
    (folder / "net.safetensors").write_bytes(GOOD)
    for _ in range(2):
        HubStore(folder).weights(PUBLISHED)
    assert len(hashed) == 2
    (folder / "net.safetensors").write_bytes(BAD)
    with pytest.raises(MissingError, match=ANOTHER):
        HubStore(folder).weights(PUBLISHED)
    assert len(hashed) == 3


@pytest.mark.parametrize("content", ["", "[1]", '{"files": 3}', "{" * 100_000, "\0"])
def test_a_damaged_memory_of_hashes_is_no_memory(hub, folder, content):
    for name in (hashes.HASHES, hashes.ACCEPTED):
        dimo_cache().mkdir(parents=True, exist_ok=True)
        (dimo_cache() / name).write_text(content)
    HubStore().weights(PUBLISHED)
    with pytest.raises(MissingError, match=ANOTHER):
        HubStore(folder).weights(PUBLISHED)
    assert json.loads((dimo_cache() / hashes.HASHES).read_text())


def test_a_cache_that_cannot_be_written_to_only_takes_longer(hub, monkeypatch, hashed):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hashes, "write_whole_text", full)
    for _ in range(2):
        HubStore().weights(PUBLISHED)
    assert len(hashed) == 2


def test_what_a_manifest_pins_is_read_there_and_must_be_what_is_known(hub):
    newest = hub.push("owner/net", {"net.safetensors": BAD})
    pinned = HubStore(manifest_commits={"owner/net": COMMIT})
    assert torch.equal(pinned.weights(PUBLISHED)["a"], torch.ones(3))
    assert pinned.revision_of(PUBLISHED) == COMMIT
    with pytest.raises(MissingError, match=ANOTHER) as caught:
        HubStore(manifest_commits={"owner/net": newest}).weights(PUBLISHED)
    assert "what its manifest says does not count" in caught.value.hint


def test_what_a_user_accepted_once_serves_the_students_made_of_it(hub, folder):
    said = []
    other = HubStore(folder, known_hashes=False, say=said.append)
    assert torch.equal(other.weights(PUBLISHED)["a"], torch.zeros(3))
    assert len(said) == 1
    assert "as you asked for it" in said[0]
    HubStore(folder, manifest_commits={}).weights(PUBLISHED)
    with pytest.raises(MissingError, match=ANOTHER):  # nobody asked for another file here
        HubStore(folder).weights(PUBLISHED)
    (folder / "net.safetensors").write_bytes(save({"a": torch.full((3,), 2.0)}))
    with pytest.raises(MissingError, match=ANOTHER):  # nor was this one ever accepted
        HubStore(folder, manifest_commits={}).weights(PUBLISHED)
