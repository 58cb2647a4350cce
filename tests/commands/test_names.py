"""A student's name is a path or a Hub id; one that does not exist is refused within seconds."""

import os
import time

import pytest

from dimo_cli.hub import network
from dimo_cli.publishing.upload import push_files
from dimo_cli.students.published import hub_id

PATHS = (
    *("./nowhere", "../x", "~/x", "/no/such", "nowhere/at/all", "runs/x/student", "x/model.pt"),
    *("x/model.safetensors", "x/dimo.json", ".hidden/x", "name"),
)
IDS = ("you/name", "you/na.me-1", "you/name@v1", "Yuanzhi/DiMO", "Yuanzhi/DiMO/meissonic@main")


@pytest.fixture(autouse=True)
def _nothing_is_remembered(monkeypatch):
    monkeypatch.setattr(network, "_answers", {})


@pytest.mark.parametrize("name", PATHS)
def test_what_looks_like_a_path_is_one(dimo, name, monkeypatch):
    def ask(url):
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("dimo_cli.hub.store.answers", ask)
    assert hub_id(name) is None
    result = dimo("sample", "--student", name)
    assert result.exit_code == 3
    assert f"`{os.path.expanduser(name).removeprefix('./')}` does not exist." in result.stderr


@pytest.mark.parametrize("name", IDS)
def test_what_looks_like_a_hub_id_is_one_unless_there_is_such_a_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_id(name)
    (tmp_path / name).mkdir(parents=True)
    assert hub_id(name) is None


def test_a_hub_that_is_away_is_said_at_once(dimo, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    dimo("sample", "-n", "1")  # imports, which take their time on a busy machine
    started = time.monotonic()
    result = dimo("sample", "--student", "you/name")
    assert time.monotonic() - started < 15
    assert result.exit_code == 3
    assert "`you/name` does not exist here. Cannot reach http://127.0.0.1:9" in result.stderr
    assert "Retrying" not in result.stderr


def test_a_server_that_never_answers_is_given_seconds(monkeypatch):
    monkeypatch.setattr(network, "PATIENCE", 0.1)
    monkeypatch.setattr(network, "connects", lambda session, url: time.sleep(20))
    started = time.monotonic()
    assert not network.answers("http://127.0.0.1:9")
    assert time.monotonic() - started < 15


def test_any_answer_counts_and_is_remembered(fake_hub, monkeypatch):
    assert network.answers(fake_hub.url)
    monkeypatch.setattr(network, "connects", lambda session, url: False)
    assert network.answers(fake_hub.url)
    monkeypatch.setattr(network, "REMEMBERED", 0.0)
    assert not network.answers(fake_hub.url)


def test_without_a_network_the_cache_serves(fake_hub, monkeypatch):
    from dimo_cli.hub.published import HubFile
    from dimo_cli.hub.store import HubStore

    file = HubFile("owner/net", "config.json")
    fake_hub.add("owner/net", "config.json", b'{"width": 8}')
    assert HubStore().config(file) == {"width": 8}
    asked = len(fake_hub.requests)
    monkeypatch.setattr("dimo_cli.hub.store.answers", lambda url: False)
    assert HubStore().config(file) == {"width": 8}
    assert len(fake_hub.requests) == asked


def test_a_push_without_a_network_is_refused_before_it_begins(monkeypatch):
    from dimo_cli.errors import MissingError
    from dimo_cli.specs.push import PushSpec

    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.setattr("dimo_cli.publishing.upload.answers", lambda url: False)
    with pytest.raises(MissingError, match="nothing was sent"):
        push_files([], PushSpec(target="digits", repository="you/x"), "", lambda line: None)
