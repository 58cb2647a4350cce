"""Mirrors that send too much, too slowly or in disguise: given up with a sentence, and no trace."""

import time

import pytest
import torch
from safetensors.torch import save

from dimo_cli.errors import MissingError
from dimo_cli.hub import transfer
from dimo_cli.hub.access import download_cache
from dimo_cli.hub.published import HubFile, Published
from dimo_cli.hub.store import HubStore, metadata_of

WEIGHTS = save({"a": torch.ones(30_000)})
FILE = HubFile("owner/net", "net.safetensors")
CONFIG = HubFile("owner/net", "config.json")


@pytest.fixture
def hub(fake_hub):
    fake_hub.add("owner/net", "net.safetensors", WEIGHTS)
    fake_hub.add("owner/net", "config.json", b'{"width": 3}')
    return fake_hub


@pytest.fixture
def impatient(monkeypatch):
    """Whoever downloads waits for half a second only."""
    monkeypatch.setattr(transfer, "PERIOD", 0.5)


def assert_given_up(words, file=FILE):
    with pytest.raises(MissingError, match=words) as caught:
        HubStore().locate(file)
    assert file.path in caught.value.message
    assert "HF_ENDPOINT" in caught.value.hint
    assert [path for path in download_cache().rglob("blobs/*") if path.stat().st_size] == []


def test_an_answer_without_an_end_is_left_as_soon_as_it_is_too_long(hub):
    hub.faults["net.safetensors"] = ["always endless"]
    assert_given_up(r"has sent .* bytes already where at most 120,\d+ are due")
    assert hub.sent < 50 * 2**20
    hub.faults.clear()
    assert HubStore().weights(Published((FILE,))).keys() == {"a"}


def test_more_than_was_announced_is_refused_before_it_is_read(hub):
    hub.headers = {"X-Linked-Size": "800"}
    assert_given_up(r"wants to send 120,\d+ bytes where at most 800 are due")


def test_more_than_is_known_of_a_file_is_refused_when_it_is_announced(hub):
    known = HubFile("owner/net", "net.safetensors", size=800, sha256="0" * 64)
    hub.headers = {"ETag": '"1"', "X-Linked-Etag": '"1"'}
    assert_given_up(r"announces 120,\d+ bytes where at most 800 are due", known)


def test_a_configuration_file_of_gigabytes_is_refused(hub):
    hub.headers = {"X-Linked-Size": str(2**31)}
    assert_given_up("announces 2,147,483,648 bytes", CONFIG)


def test_bytes_that_could_unpack_to_anything_are_not_taken(hub):
    hub.add("owner/net", "config.json", b" " * 1_000_000)
    hub.faults["config.json"] = ["always packed"]
    assert_given_up("sends packed bytes", CONFIG)


def test_a_trickle_is_given_up(hub, impatient):
    hub.faults["net.safetensors"] = ["always endless trickle"]
    started = time.monotonic()
    assert_given_up(r"less than 1,000 bytes a second over 0\.5 seconds")
    assert time.monotonic() - started < 5


def test_headers_that_trickle_are_given_up(fake_hub, impatient, monkeypatch):
    from tests.helpers.fake_hub import Handler

    monkeypatch.setattr(Handler, "answer", lambda self, send_body: self.send_for_ever(b"x", 0.05))
    with pytest.raises(MissingError, match="less than 1,000 bytes a second"):
        metadata_of(FILE)


def test_who_waits_for_another_process_is_not_called_slow(hub, impatient):
    def call():
        time.sleep(1.2)
        return 7

    assert transfer.bounded(FILE, call) == 7


def test_a_server_cannot_have_a_program_wait_for_days(hub):
    hub.faults["net.safetensors"] = ["always 429"]
    hub.headers = {"Retry-After": "999999"}
    assert_given_up("asks to wait 999,999 seconds")


@pytest.mark.parametrize("header", ["ETag", "X-Repo-Commit"])
@pytest.mark.parametrize("name", ["../../../../outside", "..", "/etc/x"])
def test_no_header_leads_out_of_the_cache(hub, header, name):
    hub.headers = {header: name} | ({"X-Linked-Etag": name} if header == "ETag" else {})
    assert_given_up("which is no name")
    assert not list(download_cache().parent.parent.rglob("outside"))


def test_a_mirror_does_not_choose_another_protocol(hub):
    hub.headers = {"X-Xet-Hash": "0" * 64, "X-Xet-Refresh-Route": f"{hub.url}/refresh"}
    assert HubStore().weights(Published((FILE,))).keys() == {"a"}
    assert hub.downloads() == ["owner/net/net.safetensors"]


def test_requests_of_others_pass_as_they_are(hub):
    from huggingface_hub.utils import get_session

    HubStore().locate(CONFIG)
    hub.faults["config.json"] = ["always packed"]
    answer = get_session().get(f"{hub.url}/owner/net/resolve/main/config.json")
    assert answer.text == '{"width": 3}'


def fetch(hub, times=1):
    """Ask for a file as the client does, so many times."""
    from huggingface_hub.utils import get_session

    for _ in range(times):
        get_session().get(f"{hub.url}/owner/net/resolve/main/net.safetensors")


def test_a_mirror_that_tells_the_size_only_when_it_sends_will_do(hub, monkeypatch):
    monkeypatch.setattr(transfer, "MOST_TEXT", 10)
    transfer.bounded(FILE, lambda: fetch(hub))
    hub.faults["net.safetensors"] = ["always endless"]
    hub.headers = {"X-Linked-Size": "many"}
    with pytest.raises(MissingError, match="where at most 10 are due"):
        transfer.bounded(FILE, lambda: fetch(hub))


def test_the_page_of_an_error_is_short(hub):
    hub.faults["net.safetensors"] = ["always 404"]
    hub.headers = {"Content-Length": str(2**30)}
    with pytest.raises(MissingError, match="wants to send 1,073,741,824 bytes"):
        transfer.bounded(FILE, lambda: fetch(hub))


def test_a_file_that_is_never_whole_is_not_sent_for_ever(hub, monkeypatch):
    monkeypatch.setattr(transfer, "MOST_TEXT", len(WEIGHTS))
    monkeypatch.setattr(transfer, "MOST_TALK", 0)
    transfer.bounded(FILE, lambda: fetch(hub, transfer.TIMES))
    with pytest.raises(MissingError, match="again and again"):
        transfer.bounded(FILE, lambda: fetch(hub, transfer.TIMES + 1))
