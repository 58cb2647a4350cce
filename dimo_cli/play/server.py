"""The web around a studio: a page, and answers as lines of JSON.

All models live on one thread, so requests are done one after the other. A request whose page has
gone, or has asked for something newer, is dropped before it starts or at its next word.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import Any

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dimo_cli.errors import DimoError, MissingError
from dimo_cli.files.untrusted import parse_json
from dimo_cli.play.connections import Crowd
from dimo_cli.play.door import Door, Doorkeeper
from dimo_cli.play.studio import Say, Studio
from dimo_cli.specs.flags import spec_from_flags
from dimo_cli.specs.play import LABELS, Ask, DrawAsk, TeacherAsk, TteoAsk

PATIENCE = 10  # seconds that an image may take to finish after Ctrl-C
LARGEST_REQUEST = 16_384  # bytes: the longest prompt and some numbers
PAGE, SHARED = ("dimo_cli.play", "page"), ("dimo_cli.reporting", "shared")  # a lightbox for all
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class NobodyListens(Exception):
    """The page went away or asked for something else."""


class ModelThread:
    """The one thread that touches the models."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="models")
        self._closing = threading.Event()

    async def lines(self, work: Callable[[Say], None]) -> AsyncIterator[bytes]:
        """What the work says, as lines of JSON; an error is the last of them."""
        loop, gone, closing = asyncio.get_running_loop(), threading.Event(), self._closing
        said: asyncio.Queue[bytes | None] = asyncio.Queue()

        def say(event: dict[str, Any]) -> None:
            if gone.is_set() or closing.is_set():
                raise NobodyListens
            line = json.dumps(event, allow_nan=False).encode() + b"\n"
            loop.call_soon_threadsafe(said.put_nowait, line)

        def run() -> None:
            try:
                if not (gone.is_set() or closing.is_set()):
                    attempt(work, say)
            except NobodyListens:
                pass
            finally:
                loop.call_soon_threadsafe(said.put_nowait, None)

        try:
            self._thread.submit(run)
            while (line := await said.get()) is not None:
                yield line
        finally:  # also when the connection is lost
            gone.set()

    def close(self) -> None:
        """Let nothing start any more, and stop what runs at its next word."""
        self._closing.set()


def attempt(work: Callable[[Say], None], say: Say) -> None:
    """Do the work; whatever goes wrong is said as a sentence."""
    try:
        work(say)
    except NobodyListens:
        raise
    except DimoError as error:
        say(problem(error))
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        say(problem(MissingError("GPU memory is exhausted.", "Ask for fewer images or starts.")))
    except Exception as error:
        logging.getLogger(__name__).exception("A request of the page failed")
        name = type(error).__name__
        say(problem(DimoError(f"That failed: {name}.", "The terminal of `dimo play` says more.")))


def problem(error: DimoError) -> dict[str, Any]:
    """An error as the page reads it."""
    return {"error": error.message, "hint": error.hint}


class Guarded:
    """Adds the headers that keep other pages out and this page to itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, with_headers)


class Refused(Exception):
    """A request that no page of ours sends."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def read_json(request: Request) -> dict[str, Any]:
    """The JSON object of a request.

    Only `application/json`: a foreign page cannot send that without asking first, and is told no.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "Requests are JSON: set the content type application/json.")
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST_REQUEST:
                raise Refused(413, f"The request is larger than {LARGEST_REQUEST:,} bytes.")
    except ClientDisconnect:
        raise Refused(408, "The request did not arrive whole.") from None
    try:
        values = parse_json(body)
    except ValueError:
        raise Refused(400, "The request is not valid JSON.") from None
    if not isinstance(values, dict):
        raise Refused(400, "The request is not a JSON object.")
    return values


def build_app(studio: Studio, models: ModelThread, door: Door) -> Starlette:
    """The page and its answers, for those for whom the door is open."""
    actions: dict[str, tuple[type[Ask], Callable[[Any, Say], None]]] = {
        "draw": (DrawAsk, studio.draw),
        "teacher": (TeacherAsk, studio.draw_teacher),
        "tteo": (TteoAsk, studio.optimize),
    }

    async def act(request: Request) -> Response:
        kind, work = actions[request.url.path.strip("/")]
        try:
            ask = spec_from_flags(kind, await read_json(request), LABELS)
        except Refused as error:
            return JSONResponse({"error": str(error), "hint": None}, error.status)
        except DimoError as error:
            return JSONResponse(problem(error), 422)
        lines = models.lines(partial(work, ask))
        return StreamingResponse(lines, media_type="application/x-ndjson")

    async def facts(request: Request) -> Response:
        return JSONResponse(studio.facts())

    return Starlette(
        routes=[
            *(Route(f"/{name}", act, methods=["POST"]) for name in actions),
            Route("/facts", facts),
            Mount("/", StaticFiles(packages=[PAGE, SHARED], html=True)),
        ],
        middleware=[Middleware(Guarded), Middleware(Doorkeeper, door=door)],
    )


class PageServer(uvicorn.Server):
    """A server that ends at the first Ctrl-C, also while something is being optimized."""

    def __init__(self, config: uvicorn.Config, models: ModelThread, ready: Callable[[], None]):
        super().__init__(config)
        self.models, self.ready = models, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.models.close()
        super().handle_exit(sig, frame)


def open_port(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is any free one."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((host, port), family=found[0])
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise MissingError(
                f"Port {port} of {host} is in use.", "Take another one; `--port 0` finds one."
            ) from None
        why = error.strerror if isinstance(error, OSError) else "that is no machine's name"
        raise MissingError(
            f"Cannot listen at {host}, port {port}: {why}.",
            "`--host 127.0.0.1 --port 0` works everywhere.",
        ) from None


def page_server(studio: Studio, door: Door, ready: Callable[[], None] = lambda: None) -> PageServer:
    """What serves the page; `ready` is called when it can be opened."""
    models = ModelThread()
    config = uvicorn.Config(
        build_app(studio, models, door),
        http=Crowd().protocol,  # type: ignore[arg-type]
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=PATIENCE,
    )
    return PageServer(config, models, ready)


def serve(studio: Studio, listening: socket.socket, door: Door, ready: Callable[[], None]) -> None:
    """Serve the page until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):  # the way to end it
        page_server(studio, door, ready).run([listening])
