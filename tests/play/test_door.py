"""Beyond loopback the page of `dimo play` is for those who have its address, and for no others."""

import json
import subprocess
import sys
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPCookieProcessor, build_opener, urlopen

import pytest

pytest.importorskip("starlette")

from starlette.testclient import TestClient

from dimo_cli.play.door import Door, door_of
from dimo_cli.play.server import ModelThread, build_app, open_port
from dimo_cli.play.studio import Studio
from dimo_cli.students.folder import BUILTIN, load_student

TOKEN = "a-token-of-this-test"
ADDRESS = "http://192.168.7.7:8190"


@pytest.fixture(scope="module")
def studio():
    return Studio(load_student(BUILTIN["digits"]), "digits")


@pytest.fixture
def page(studio):
    """The page as others reach it."""
    door = Door(frozenset({"lab-box"}), TOKEN)
    return TestClient(build_app(studio, ModelThread(), door), base_url=ADDRESS)


@pytest.mark.parametrize("path", ["/", "/facts", "/play.js", "/enter/", "/enter/wrong", "/enter/é"])
def test_without_the_token_nothing_is_answered(page, path):
    answer = page.get(path)
    assert answer.status_code == 401
    assert "whole address" in answer.json()["error"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "set-cookie" not in answer.headers


def test_without_the_token_nothing_is_drawn(page):
    assert page.post("/draw", json={"condition": "7"}).status_code == 401


def test_the_address_opens_the_page_once_and_a_cookie_stands_for_it_then(page):
    entered = page.get(f"/enter/{TOKEN}")
    assert entered.status_code == 200
    assert str(entered.url) == f"{ADDRESS}/", "the token is in no address that a page passes on"
    cookie = entered.history[0].headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert page.get("/facts").json()["student"] == "digits"
    assert "images" in page.post("/draw", json={"condition": "7", "count": 1}).text


def test_a_program_sends_the_token_with_each_request(page):
    assert page.get("/facts", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    for wrong in (f"Basic {TOKEN}", TOKEN, "Bearer", f"Bearer {TOKEN}x", "Bearer \xe9"):
        heads = {"authorization": wrong.encode("latin-1")}
        assert page.get("/facts", headers=heads).status_code == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("192.168.7.7:8190", 200),
        ("[fe80::1]:8190", 200),
        ("10.0.0.1", 200),
        ("LAB-box:8190", 200),
        ("evil.example:8190", 400),
        ("lab-box.evil.example", 400),
        ("192.168.7.7.evil.example", 400),
        ("[evil]:1", 400),
        ("", 400),
    ],
)
def test_a_page_from_elsewhere_that_calls_itself_this_machine_is_refused(page, host, status):
    heads = {"host": host, "authorization": f"Bearer {TOKEN}"}
    assert page.get("/facts", headers=heads).status_code == status


def test_a_person_without_the_token_reads_a_sentence(page):
    answer = page.get("/", headers={"accept": "text/html"})
    assert answer.text.startswith("This page is for those who have its whole address")


def test_only_a_page_that_others_can_reach_has_a_token_and_each_time_another():
    with open_port("127.0.0.1", 0) as own, open_port("0.0.0.0", 0) as shared:
        assert door_of(own, "127.0.0.1") == Door()
        tokens = {door_of(shared, "0.0.0.0").token for _ in range(2)}
    assert len(tokens) == 2
    assert all(len(token) >= 32 for token in tokens)


@pytest.mark.slow
def test_the_program_prints_an_address_that_lets_in_and_no_other_does(tmp_path):
    call = ["-m", "dimo_cli", "play", "digits", "--host", "0.0.0.0", "--port", "0", "--no-open"]
    process = subprocess.Popen(
        [sys.executable, *call],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        url = process.stdout.readline().split()[-1]
        parts = urlsplit(url)
        with pytest.raises(HTTPError, match="401"):
            urlopen(f"http://{parts.netloc}/facts")
        browser = build_opener(HTTPCookieProcessor())
        assert b"<title>" in browser.open(url).read()
        facts = json.load(browser.open(f"http://{parts.netloc}/facts"))
        assert facts["student"] == "digits"
    finally:
        process.terminate()
        process.communicate(timeout=60)
