"""Connections with people of little patience: nobody keeps others out by asking slowly.

A request has to arrive whole within a time, and each client has so many connections. One too many
takes the place of the oldest whose request has not arrived.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST, MOST_OF_ONE_CLIENT = 64, 16
REQUEST_SECONDS = 10.0


class Crowd:
    """All connections that are open, the oldest first."""

    def __init__(self, most: int = MOST, most_of_one: int = MOST_OF_ONE_CLIENT) -> None:
        self.most, self.most_of_one = most, most_of_one
        self.there: list[ImpatientProtocol] = []

    def protocol(self, **server: Any) -> ImpatientProtocol:
        """A connection that is about to be made; `server` is what uvicorn tells it."""
        return ImpatientProtocol(self, **server)

    def admit(self, new: ImpatientProtocol) -> None:
        """Take in a connection; if they are too many, one has to go."""
        clients = Counter(one.address for one in self.there)
        crowded = clients[new.address] >= self.most_of_one
        if crowded or len(self.there) >= self.most:
            waiting = [
                one
                for one in self.there
                if one.is_waiting() and (not crowded or one.address == new.address)
            ]
            leaves = max(waiting, key=lambda one: clients[one.address], default=new)
            leaves.hang_up()
            if leaves is new:
                return
            self.there.remove(leaves)
        self.there.append(new)

    def forget(self, gone: ImpatientProtocol) -> None:
        """A connection has ended."""
        if gone in self.there:
            self.there.remove(gone)


class ImpatientProtocol(H11Protocol):
    """uvicorn's HTTP connection, which by itself waits forever for the end of a request."""

    def __init__(self, crowd: Crowd, **server: Any) -> None:
        super().__init__(**server)
        self.crowd, self.address = crowd, ""
        self.deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self.keep_time()
        self.crowd.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.crowd.forget(self)
        if self.deadline:
            self.deadline.cancel()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.keep_time()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.keep_time()

    def is_waiting(self) -> bool:
        """Whether this is the client's turn: its request is not here, or not whole."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def keep_time(self) -> None:
        """Let the time run while it is the client's turn; what it sends does not set it back."""
        if self.is_waiting() and self.deadline is None:
            self.deadline = self.loop.call_later(REQUEST_SECONDS, self.hang_up)
        elif not self.is_waiting() and self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def hang_up(self) -> None:
        """End the connection, unless it is ending: then the rest of an answer is on its way."""
        if not self.transport.is_closing():
            self.transport.abort()
