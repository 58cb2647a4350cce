"""Tokens, keys and passwords never show: on the screen, in JSON, in any file, in a traceback."""

import base64
import json
import logging
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants as client
import pytest

from dimo_cli.errors import MissingError
from dimo_cli.redacting import keeping_secrets, told, without_secrets
from tests.helpers.fake_hub import serve

SECRETS = {
    "HF_TOKEN": "hf_CanaryOfTheEnvironment01",
    "WANDB_API_KEY": "canary0of0wandb0123456789abcdef",
    "TRACKIO_WRITE_TOKEN": "canary-of-trackio-0123",
}
STORED, PASSWORD = "hf_CanaryOfTheCache0123456", "canary-password"
ALL = (*SECRETS.values(), STORED, PASSWORD, base64.b64encode(f"me:{PASSWORD}".encode()).decode())


def test_a_token_is_known_behind_any_letter():
    """As where a sequence for the terminal stood before it, of which a letter is left."""
    token = "hf_" + "abcDEF0123" * 3
    assert without_secrets(f"x{token} {token[:11]} shf_abcdefgh") == "x*** *** shf_abcdefgh"


class Echo(BaseHTTPRequestHandler):
    """A Hub that answers everything with one status, and says who asked: the worst there can be."""

    hub: SimpleNamespace

    def answer(self):
        asked = self.headers.get("Authorization", "")
        body = json.dumps({"error": f"no entry for {asked}, {STORED}"}).encode()
        self.send_response(self.hub.status)
        self.send_header("X-Error-Message", f"no entry for {asked}, {STORED}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def log_message(self, *args):
        pass


@pytest.fixture
def home(room_enough, tmp_path_factory, monkeypatch):
    """An environment full of secrets, and a login."""
    home = tmp_path_factory.mktemp("hf")
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("HF_HOME", str(home))
    (home / "token").write_text(STORED)
    monkeypatch.setattr(client, "HF_TOKEN_PATH", str(home / "token"))
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def hub(home, monkeypatch):
    """That Hub, behind a name and a password."""
    hub = SimpleNamespace(status=500, url="")
    server = serve(hub, Echo)
    monkeypatch.setenv("HF_ENDPOINT", hub.url.replace("://", f"://me:{PASSWORD}@"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def logged(caplog):
    """What libraries log while the program guards its logs."""
    with keeping_secrets():
        yield caplog


def assert_no_secret(text):
    found = [secret for secret in ALL if secret in text]
    assert found == [], text


def assert_no_secret_in_files(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert [s for s in ALL if s.encode() in content] == [], path


COMMANDS = {
    "sample": ("sample", "--student", "owner/name", "-n", "1"),
    "distill": ("distill", "--preset", "maskgit", "--out", "r"),
    "push": ("push", "digits", "maker/digits-1step"),
    "eval": ("eval", "is", "owner/name", "-n", "8"),
    "doctor": ("doctor", "--preset", "maskgit"),
    "hps": ("eval", "hps", "digits", "-n", "8"),
}


@pytest.mark.usefixtures("unrehearsed")
@pytest.mark.parametrize(
    ("command", "status"),
    [*((command, 403) for command in COMMANDS), *(("push", status) for status in (401, 404, 500)),
     ("sample", 401), ("distill", 500)],
)  # fmt: skip
def test_a_hub_that_says_no_and_repeats_what_it_was_told(
    hub, dimo, tmp_path, logged, command, status
):
    hub.status = status
    for flags in ((), ("--json",)):
        result = dimo(*COMMANDS[command], *flags)
        assert result.exit_code in (2, 3), result.output
        assert isinstance(result.exception, SystemExit)
        assert_no_secret(result.stdout + result.stderr)
    assert_no_secret(logged.text)
    assert_no_secret_in_files(tmp_path)


def test_a_hub_that_is_not_there(home, dimo, monkeypatch, logged):
    monkeypatch.setenv("HF_ENDPOINT", f"http://me:{PASSWORD}@127.0.0.1:9")
    for command in ("sample", "push", "doctor"):
        result = dimo(*COMMANDS[command])
        assert "127.0.0.1:9" in result.output
        assert_no_secret(result.stdout + result.stderr + logged.text)


def test_a_run_keeps_none_in_its_folder_its_report_or_its_card(home, dimo, tmp_path):
    small = ("train.steps=2", "train.batch_size=4", "monitor.tracker=tensorboard",
             "monitor.table_samples=0", "monitor.fid_every=0")  # fmt: skip
    sets = [word for value in small for word in ("--set", value)]
    run = dimo("distill", "--preset", "digits", "--out", "r", *sets, "--json")
    assert run.exit_code == 0, run.output
    card = dimo("push", "r", "maker/digits-1step", "--dry-run")
    report = dimo("report", "r", "--out", "r.html", "--json")
    assert_no_secret(run.output + card.output + report.output)
    assert (tmp_path / "r" / "run.yaml").exists()
    assert (tmp_path / "r.html").exists()
    assert_no_secret_in_files(tmp_path)


def test_what_a_person_notes_in_a_run_is_no_hole_in_its_report_or_card(home, dimo, tmp_path):
    """Notes and settings are copied into reports and cards, which are made to be passed on."""
    sets = ("train.steps=2", "train.batch_size=4", "monitor.table_samples=0", "monitor.fid_every=0")
    flags = [word for value in sets for word in ("--set", value)]
    assert dimo("distill", "--preset", "digits", "--out", "r", *flags).exit_code == 0
    with Path("r/notes.txt").open("a") as file:
        file.write(f"from https://me:{PASSWORD}@mirror.example with {SECRETS['HF_TOKEN']}\n")
    assert dimo("report", "r", "--out", "r.html").exit_code == 0
    page = Path("r.html").read_text()
    assert "https://***@mirror.example with ***" in page
    assert_no_secret(page)


def test_the_traceback_that_was_asked_for_has_none(hub, tmp_path):
    """DIMO_DEBUG=1 shows what the Hub's client raised, addresses and all."""
    hub.status = 401
    program = (sys.executable, "-m", "dimo_cli")
    shown = subprocess.run(
        [*program, *COMMANDS["sample"]],
        cwd=tmp_path,
        env={**os.environ, "DIMO_DEBUG": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" in shown.stderr
    assert "***" in shown.stderr
    assert_no_secret(shown.stdout + shown.stderr)


def test_a_traceback_that_libraries_log_has_none(home, logged):
    try:
        raise ValueError(f"GET https://me:{PASSWORD}@host/x with {STORED}")
    except ValueError as error:
        logging.getLogger("any").exception("failed: %s", error)
        assert_no_secret(told(error))
    assert "https://***@host/x" in logged.text
    assert_no_secret(logged.text)


def test_errors_hold_none_for_whoever_catches_them(home):
    error = MissingError(f"No answer of http://me:{PASSWORD}@host.", f"Is {STORED} right?")
    assert_no_secret(f"{error} {error.message} {error.hint} {error.__notes__} {error!r}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@host:80/a@b", "http://***@host:80/a@b"),
        ("hf_abcdefghijkl and hf_hub", "*** and hf_hub"),
        ("write to me@example.org", "write to me@example.org"),
        ("https://example.org/@you/x", "https://example.org/@you/x"),
        ('"a://b:c@d" then "e@f"', '"a://***@d" then "e@f"'),
        ("https://me:pa@ss@host/x", "https://***@host/x"),
        ("https://h/x?a=1&sig=b%2Fc#d", "https://h/x?a=1&sig=***#d"),
        ("https://h/x?token=b&e=f", "https://h/x?token=***&e=f"),
        ("https://h?X-Amz-Signature=a&X-Amz-Credential=b/c&x=1",
         "https://h?X-Amz-Signature=***&X-Amz-Credential=***&x=1"),
        ("h?Key-Pair-Id=a&amp;Policy=b&amp;c=d", "h?Key-Pair-Id=***&amp;Policy=***&amp;c=d"),
        ('{"url": "h?access_token=a\\u0026b=c"}', '{"url": "h?access_token=***\\u0026b=c"}'),
        ("?a=b\\u0026sig=c", "?a=b\\u0026sig=***"),
        ("--set key=value; token=x signal=5", "--set key=value; token=x signal=5"),
        ("&quot;key=5&quot;", "&quot;key=5&quot;"),
    ],
)  # fmt: skip
def test_only_secrets_are_taken_out(text, shown):
    assert without_secrets(text) == shown


def test_a_short_word_in_a_variable_is_no_secret(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "a")
    assert without_secrets("a fox") == "a fox"


def test_a_long_text_that_looks_like_a_signed_address_takes_no_time():
    started = time.process_time()
    without_secrets("?" + "sig" * 200_000 + "://" * 100_000 + "&" * 100_000)
    assert time.process_time() - started < 2
