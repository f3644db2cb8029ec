"""HTTP connections: a limit on their number, and on the time that a request takes to arrive."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ordito.serve.errors import ApiError, error_response
from ordito.serve.guard import Guard

_CLOSE_DELAY = 5.0
"""Seconds after the deadline of a body until the connection is closed, in which the guard answers with an error."""


class Connection(H11Protocol):
    """A connection to a server of `Guard`, with the limits of its settings.

    The head of a request must arrive within `arrival_seconds`, and its body within as many more: a client that sends a byte
    now and then would otherwise hold a connection for ever (Slowloris). For the time between two requests there is uvicorn's
    `timeout_keep_alive`.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        assert isinstance(self.config.app, Guard)
        self.limits = self.config.app.settings
        self.awaiting: Literal["head", "body"] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Answer 503 and close if there are too many connections, else wait for a request."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._answer(ApiError(503, f"there are {self.limits.max_connections} connections already: try again later"))
        else:
            self._await("head")

    def data_received(self, data: bytes) -> None:
        """Read more of a request, and set the timer for what has to arrive next."""
        super().data_received(data)
        their_state = self.conn.their_state
        if their_state is h11.SEND_BODY:
            self._await("body")
        elif their_state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
            self._await("head")
        else:
            self._await(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._await(None)
        super().connection_lost(exc)

    def _await(self, what: Literal["head", "body"] | None) -> None:
        if what == self.awaiting:
            return
        if self.timer is not None:
            self.timer.cancel()
        self.awaiting, seconds = what, self.limits.arrival_seconds
        # A late body is answered by the guard, in the format of the API; the connection is only closed.
        late = {None: None, "head": (seconds, self._head_is_late), "body": (seconds + _CLOSE_DELAY, self.transport.close)}[what]
        self.timer = None if late is None else self.loop.call_later(*late)

    def _head_is_late(self) -> None:
        if self.conn.trailing_data[0]:
            self._answer(ApiError(408, f"the head of the request took longer than {self.limits.arrival_seconds:g} seconds"))
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, or has more headers than h11 reads, as JSON like every other error, and close."""
        if getattr(sys.exception(), "error_status_hint", 400) == 431:
            self._answer(ApiError(431, f"the headers have more than {self.limits.max_header} bytes"))
        else:
            self._answer(ApiError(400, "the request is not valid HTTP"))

    def _answer(self, error: ApiError) -> None:
        """Answer with an error while there is no whole request for the application yet, and close."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # it was answered before its end
            self.transport.close()
            return
        response = error_response(error, "")
        head = h11.Response(status_code=response.status_code, headers=[*response.raw_headers, (b"connection", b"close")])
        for event in (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
