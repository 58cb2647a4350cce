"""Who may use the page: this machine alone or, where others can reach it, who has its address.

The address holds a token that nobody guesses. It is given once, and a cookie stands for it then.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
ENTRANCE = "/enter/"
TOKEN_BYTES = 24
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(:[0-9]*)?")
NO_TOKEN = "This page is for those who have its whole address: that which `dimo play` has printed."


@dataclass(frozen=True)
class Door:
    """The names that a page may be called by, and the token that opens it; None: it is open."""

    names: frozenset[str] = LOOPBACK_NAMES
    token: str | None = None

    @property
    def path(self) -> str:
        """What follows machine and port in the address to be given to people."""
        return "" if self.token is None else ENTRANCE + self.token

    def is_meant(self, host: str) -> bool:
        """Whether a request was meant for this page.

        A page from elsewhere whose name turns out to mean this machine (DNS rebinding) keeps its
        name. A number is nobody else's name.
        """
        found = HOST.fullmatch(host.strip().lower())
        name = found[1] if found else ""
        return name in self.names or (self.token is not None and is_number(name))

    def is_opened_by(self, key: str | None) -> bool:
        """Whether a key is the token; how long that takes tells nothing about it."""
        if self.token is None:
            return True
        return hmac.compare_digest((key or "").encode(errors="replace"), self.token.encode())


class Doorkeeper:
    """Lets in those for whom the door is open."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app, self.door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self.refusal(Request(scope)) if scope["type"] == "http" else None
        await (answer or self.app)(scope, receive, send)

    def refusal(self, request: Request) -> Response | None:
        """What to answer instead of the page; None for who may go on to it."""
        door, cookie = self.door, cookie_name(request)
        host = request.headers.get("host", "")
        if not door.is_meant(host):
            return sentence(request, 400, "This page has no such name: call it by its address.")
        path = request.url.path
        if path.startswith(ENTRANCE) and door.is_opened_by(path.removeprefix(ENTRANCE)):
            answer = RedirectResponse("/", 303)  # so that the token is in no later address
            # Lax: a link in a mail or a chat leads in, too. Posts need JSON, which links cannot.
            answer.set_cookie(cookie, door.token or "", httponly=True, samesite="lax")
            return answer
        keys = (request.cookies.get(cookie), bearer(request))
        if not any(door.is_opened_by(key) for key in keys):
            return sentence(request, 401, NO_TOKEN)
        return None


def cookie_name(request: Request) -> str:
    """Browsers keep cookies by machine: pages at its other ports have others."""
    _, port = request.scope.get("server") or ("", 0)
    return f"dimo-play-{port}"


def bearer(request: Request) -> str:
    """The token that a program sends with each request."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def sentence(request: Request, status: int, text: str) -> Response:
    """A refusal for a person who opened an address, or for the page that asked."""
    if "text/html" in request.headers.get("accept", ""):
        return PlainTextResponse(text, status)
    return JSONResponse({"error": text, "hint": None}, status)


def is_number(name: str) -> bool:
    """Whether a host is an address of the Internet protocol."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def is_loopback(listening: socket.socket) -> bool:
    """Whether only this machine can reach a socket."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def door_of(listening: socket.socket, host: str) -> Door:
    """The door of a page that was asked to listen at `host`."""
    if is_loopback(listening):
        return Door()
    own = socket.gethostname().lower()
    names = {host.lower(), own, own.partition(".")[0], f"{own.partition('.')[0]}.local"}
    return Door(LOOPBACK_NAMES | names, secrets.token_urlsafe(TOKEN_BYTES))
