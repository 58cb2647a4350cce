"""Nobody keeps others from the page of `dimo play` by asking slowly, or often."""

import asyncio
import json
import socket
import threading
import time
from contextlib import ExitStack, closing
from http.client import HTTPConnection

import pytest

pytest.importorskip("starlette")

from dimo_cli.play import connections
from dimo_cli.play.connections import MOST_OF_ONE_CLIENT, Crowd
from dimo_cli.play.door import Door
from dimo_cli.play.server import ModelThread, open_port, page_server
from dimo_cli.play.studio import Studio
from dimo_cli.students.folder import BUILTIN, load_student

HALF_A_HEAD = b"GET /facts HTTP/1.1\r\nHost: 127.0.0.1\r\n"
HALF_A_BODY = (
    b"POST /draw HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1000\r\n\r\n{"
)


@pytest.fixture(scope="module")
def port():
    """A page that is served."""
    ready = threading.Event()
    studio = Studio(load_student(BUILTIN["digits"]), "digits")
    with open_port("127.0.0.1", 0) as listening:
        server = page_server(studio, Door(), ready.set)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        assert ready.wait(30)
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(30)


def answer(client, method, path, wish=None):
    """What a page is answered."""
    heads = {"Content-Type": "application/json"} if wish else {}
    client.request(method, path, json.dumps(wish) if wish else None, heads)
    found = client.getresponse()
    text = found.read().decode()
    assert found.status == 200, text
    return text


def is_closed(connection, seconds):
    """Whether the other end hangs up within some seconds."""
    connection.settimeout(seconds)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


@pytest.mark.parametrize("half", [b"", HALF_A_HEAD, HALF_A_BODY])
def test_a_hundred_half_requests_keep_nobody_out(port, half):
    with ExitStack() as stack:
        for _ in range(100):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            one.sendall(half)
        began = time.monotonic()
        with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as client:
            assert '"student":"digits"' in answer(client, "GET", "/facts")
            assert '"images"' in answer(client, "POST", "/draw", {"condition": "7", "count": 1})
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("half", [b"", HALF_A_HEAD, HALF_A_BODY])
def test_a_request_has_to_arrive_within_a_time(port, half, monkeypatch, caplog):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(half)
        assert is_closed(slow, 5)
    assert "Exception" not in caplog.text


def test_a_word_now_and_then_is_no_request(port, monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.5)
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(HALF_A_HEAD)
        for _ in range(6):
            slow.sendall(b"X-More: 1\r\n")
            time.sleep(0.05)
        assert is_closed(slow, 0.35), "no later than if it had said nothing more"


def test_a_connection_is_kept_for_further_requests_and_an_answer_may_take_its_time(
    port, monkeypatch
):
    def slowly(models, work):
        async def lines():
            await asyncio.sleep(0.6)
            yield b'{"images": []}\n'

        return lines()

    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.3)
    monkeypatch.setattr(ModelThread, "lines", slowly)
    with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as client:
        assert answer(client, "GET", "/facts")
        held = client.sock
        time.sleep(0.1)
        assert answer(client, "POST", "/draw", {"condition": "7"}) == '{"images": []}\n'
        assert client.sock is held


class Connection:
    def __init__(self, address, waits=True):
        self.address, self.waits, self.is_open = address, waits, True

    def is_waiting(self):
        return self.waits

    def hang_up(self):
        self.is_open = False


def admitted(crowd, *many):
    for one in many:
        crowd.admit(one)
    return many


def test_one_client_too_many_takes_the_place_of_its_own_oldest():
    crowd = Crowd()
    other = Connection("other")
    mine = [Connection("mine") for _ in range(MOST_OF_ONE_CLIENT)]
    mine[0].waits = False
    admitted(crowd, other, *mine)
    new = Connection("mine")
    crowd.admit(new)
    assert [one for one in mine if not one.is_open] == [mine[1]]
    assert other.is_open
    assert new in crowd.there


def test_where_all_places_are_taken_the_greediest_makes_room():
    crowd = Crowd(most=6, most_of_one=4)
    alone, few, many = Connection("a"), Connection("b"), [Connection("c") for _ in range(4)]
    admitted(crowd, alone, few, *many)
    new = Connection("d")
    crowd.admit(new)
    assert not many[0].is_open
    assert alone.is_open
    assert few.is_open
    assert len(crowd.there) == 6


def test_who_is_being_answered_is_not_put_out():
    crowd = Crowd(most=3, most_of_one=2)
    served = admitted(crowd, *(Connection("a", waits=False) for _ in range(2)))
    one_more = Connection("a")
    crowd.admit(one_more)
    assert not one_more.is_open
    assert all(one.is_open for one in served)
    crowd.forget(served[0])
    crowd.admit(again := Connection("a"))
    assert again.is_open
