"""What a server may send, and how slowly: each answer to a download is bounded while it arrives.

The Hub's client reads whatever comes, for as long as anything comes, and takes names of files from
headers. A mirror is a stranger, so its answers are looked at before the client sees them.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from dimo_cli.errors import MissingError
from dimo_cli.hub.access import endpoint
from dimo_cli.hub.published import HubFile

T = TypeVar("T")

PERIOD = 60.0  # seconds over which a speed is taken
SLOWEST = 1_000  # bytes a second
LONGEST_WAIT = 600  # seconds that a busy server may ask for
MOST_TALK = 8 * 2**20  # bytes of an answer that is no file, such as the page of an error
MOST_TEXT = 64 * 2**20  # bytes of a file without weights or rows, or of no announced size
TIMES = 4  # as often as a file may be sent before it is whole: connections break
LARGE_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".parquet", ".jsonl")
OWN_HOSTS = ("huggingface.co", "hf.co")  # the Hub's own, whose faster protocol is used as well
# Those of an answer to HEAD become names in the cache: nothing in them may lead out of it.
NAMING_HEADERS = ("ETag", "X-Linked-Etag", "X-Repo-Commit")
PLAIN_NAME = re.compile(r'^(W/)?"?\w[\w.:;,=+-]*"?$')
POLL = 0.1  # seconds

_installing = threading.Lock()


@dataclass
class Transfer:
    """One download as it goes: what was announced, what came, and since when there is waiting."""

    file: HubFile
    """Its size is that of its bytes if it is known, and else None."""
    announced: int | None = None
    received: int = 0
    is_waiting: bool = False
    is_over: bool = False
    mark: tuple[float, int] = field(default_factory=lambda: (time.monotonic(), 0))
    """When the speed was last looked at, and how much had come by then."""

    @property
    def most(self) -> int:
        """Bytes that the file has at most."""
        sizes = [size for size in (self.file.size, self.announced) if size is not None]
        return min(sizes, default=MOST_TEXT)

    def is_stalled(self) -> bool:
        """Whether next to nothing came for a whole period, while something should have."""
        now = time.monotonic()
        since, before = self.mark
        if self.is_waiting and now - since < PERIOD:
            return False
        self.mark = now, self.received
        return self.is_waiting and self.received - before < SLOWEST * PERIOD

    def ask(self, request: Any) -> None:
        """Before a request: bytes as they are, since packed ones can unpack to any number."""
        self.refuse_if_over()
        self.is_waiting = True
        request.headers["Accept-Encoding"] = "identity"

    def admit(self, response: Any) -> None:
        """Before an answer is read: what it claims, and how much of it will be read at most."""
        self.refuse_if_over()
        check_headers(response, self.file)
        if urlsplit(str(response.url)).hostname not in OWN_HOSTS:
            response.headers.pop("X-Xet-Hash", None)
        is_file = response.request.method == "GET" and response.status_code in (200, 206)
        is_about = response.request.method == "HEAD" and response.status_code < 400
        if is_about or (is_file and self.announced is None):
            self.announced = announced_size(response)
            self.check_size(self.announced)
        bound(response, self, self.most if is_file else MOST_TALK)

    def check_size(self, size: int | None) -> None:
        """Refuse a size that is not the file's, or that no file of its kind has."""
        is_large = self.file.path.endswith(LARGE_SUFFIXES)
        most = self.file.size if self.file.size is not None else None if is_large else MOST_TEXT
        if size is not None and most is not None and size > most:
            raise too_much(self.file, f"announces {size:,} bytes", most)

    def count(self, number: int) -> None:
        """Some bytes came."""
        self.received += number
        self.refuse_if_over()
        if self.received > TIMES * self.most + MOST_TALK:
            raise too_much(
                self.file, f"has sent {self.received:,} bytes again and again", self.most
            )

    def refuse_if_over(self) -> None:
        """End what goes on behind a download that was given up."""
        if self.is_over:
            raise too_slow(self.file)


TRANSFER: ContextVar[Transfer | None] = ContextVar("transfer", default=None)


def bounded(file: HubFile, call: Callable[[], T]) -> T:
    """What `call` returns, all of whose answers are bounded in size and in time.

    It runs beside the caller, since nothing ends a read that gets a byte every few seconds.
    """
    install()
    transfer, outcome = Transfer(file), Future[T]()
    context = copy_context()
    context.run(TRANSFER.set, transfer)

    def work() -> None:
        try:
            outcome.set_result(context.run(call))
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while thread.is_alive() and not transfer.is_stalled():
            thread.join(POLL)
        if not outcome.done():
            raise too_slow(file)
        return outcome.result()
    finally:
        transfer.is_over = True
        thread.join(1)  # so that it tidies up behind itself


def install() -> None:
    """Have the client look at each of its requests and answers; those of others pass."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    with _installing:
        make = getattr(_http, "_GLOBAL_CLIENT_FACTORY", _http.default_client_factory)
        if not isinstance(make, WatchedFactory):
            set_client_factory(WatchedFactory(make))


@dataclass(frozen=True)
class WatchedFactory:
    """Makes the clients that were made before, with an eye on the downloads of dimo."""

    make: Callable[[], Any]

    def __call__(self) -> Any:
        """A client."""
        client = self.make()
        hooks = {when: list(them) for when, them in client.event_hooks.items()}
        hooks.setdefault("request", []).append(before_request)
        hooks.setdefault("response", []).append(before_response)
        client.event_hooks = hooks
        return client


def before_request(request: Any) -> None:
    """What the client calls before each request."""
    if transfer := TRANSFER.get():
        transfer.ask(request)


def before_response(response: Any) -> None:
    """What the client calls before it reads an answer."""
    if transfer := TRANSFER.get():
        transfer.admit(response)


def check_headers(response: Any, file: HubFile) -> None:
    """Refuse headers that would lead the client astray."""
    headers, names = response.headers, response.request.method == "HEAD"
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise refused(file, "sends packed bytes, for which it was not asked")
    for name in NAMING_HEADERS if names else ():
        if name in headers and not PLAIN_NAME.match(headers[name]):
            raise refused(file, f"sends `{name}: {headers[name][:40]}`, which is no name")
    waits = re.findall(r"^\s*(\d{1,18})", headers.get("Retry-After", ""))
    waits += re.findall(r"\bt=(\d{1,18})", headers.get("ratelimit", ""))
    longest = max(map(int, waits), default=0)
    if longest > LONGEST_WAIT:
        raise refused(file, f"asks to wait {longest:,} seconds")


def announced_size(response: Any) -> int | None:
    """The size of a file by the headers of an answer; None where they say none."""
    named = response.headers.get("X-Linked-Size")
    if named is None and not response.has_redirect_location:
        named = response.headers.get("Content-Length")
    return int(named) if named is not None and named.isdecimal() else None


def bound(response: Any, transfer: Transfer, most: int) -> None:
    """Have the bytes of an answer counted as they come."""
    length = response.headers.get("Content-Length", "")
    if response.request.method != "HEAD" and length.isdecimal() and int(length) > most:
        raise too_much(transfer.file, f"wants to send {int(length):,} bytes", most)
    inner = response.stream
    kind = next(cls for cls in type(inner).__mro__ if cls.__name__ == "SyncByteStream")

    class Counted(kind):  # type: ignore[misc, valid-type]  # the client takes no other class
        def __iter__(self) -> Iterator[bytes]:
            arrived = 0
            for chunk in inner:
                arrived += len(chunk)
                if arrived > most:
                    raise too_much(transfer.file, f"has sent {arrived:,} bytes already", most)
                transfer.count(len(chunk))
                yield chunk

        def close(self) -> None:
            transfer.is_waiting = False
            inner.close()

    response.stream = Counted()


def refused(file: HubFile, what: str) -> MissingError:
    """The sentence for an answer that is not read."""
    return MissingError(
        f"{endpoint()} {what}: the download of `{file}` was given up.",
        "Nothing of it was kept. Use the Hub itself or another mirror: change HF_ENDPOINT.",
    )


def too_much(file: HubFile, what: str, most: int) -> MissingError:
    """The sentence for an answer that is larger than the file."""
    return refused(file, f"{what} where at most {most:,} are due")


def too_slow(file: HubFile) -> MissingError:
    """The sentence for a server that keeps a download waiting."""
    return MissingError(
        f"{endpoint()} sent less than {SLOWEST:,} bytes a second over {PERIOD:g} seconds: the "
        f"download of `{file}` was given up.",
        "Run the same command again later, or change HF_ENDPOINT to another mirror.",
    )
