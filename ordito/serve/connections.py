"""Connections: how many there may be, and how long a request may take to arrive."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ordito.serve.errors import ApiError, error_response
from ordito.serve.guard import Guard

_LINGER = 5.0
"""Seconds in which whoever still sends can be told that it was too slow."""


class Connection(H11Protocol):
    """A connection to a server of `Guard`, by its settings.

    The head of a request must be there in `arrival_seconds`, its body in as many more: who sends a byte now and then would
    else hold a place for ever. Waiting for the next request is uvicorn's `timeout_keep_alive`.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        assert isinstance(self.config.app, Guard)
        self.limits = self.config.app.settings
        self.awaited: Literal["head", "body"] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Someone came; one too many is sent away."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._answer(ApiError(503, f"there are {self.limits.max_connections} connections already: try again later"))
        else:
            self._await("head")

    def data_received(self, data: bytes) -> None:
        """More of a request came."""
        super().data_received(data)
        their_state = self.conn.their_state
        if their_state is h11.SEND_BODY:
            self._await("body")
        elif their_state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
            self._await("head")
        else:
            self._await(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """They left, or were sent away."""
        self._await(None)
        super().connection_lost(exc)

    def _await(self, what: Literal["head", "body"] | None) -> None:
        if what == self.awaited:
            return
        if self.timer is not None:
            self.timer.cancel()
        self.awaited, seconds = what, self.limits.arrival_seconds
        # Of a body it is the guard that says so, in the words of its dialect.
        late = {None: None, "head": (seconds, self._head_is_late), "body": (seconds + _LINGER, self.transport.close)}[what]
        self.timer = None if late is None else self.loop.call_later(*late)

    def _head_is_late(self) -> None:
        if self.conn.trailing_data[0]:
            self._answer(ApiError(408, f"the head of the request took longer than {self.limits.arrival_seconds:g} seconds"))
        else:
            self.transport.close()

    def _answer(self, error: ApiError) -> None:
        """Say what is wrong, before there is a request that an application could answer, and close."""
        told = error_response(error, "")
        head = h11.Response(status_code=told.status_code, headers=[*told.raw_headers, (b"connection", b"close")])
        for event in (head, h11.Data(data=bytes(told.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
