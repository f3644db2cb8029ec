"""The HTTP server of an application, and its shutdown."""

from __future__ import annotations

import asyncio
import logging
import socket
from types import FrameType

import uvicorn

from ordito.serve.connections import Connection
from ordito.serve.guard import Guard

GRACE = 5.0
"""Seconds that running answers have to finish when the server stops."""
_CLOSE_DELAY = 2.0
"""Seconds to send an error to the clients whose answers were cancelled, before their connections are closed."""

log = logging.getLogger("ordito.serve")


class Listener(uvicorn.Server):
    """Serves an application until a signal (SIGINT or SIGTERM). Then no new connection is accepted, and running answers have
    `GRACE` seconds, or until a second signal, to finish; the others are cancelled with an error in the format of their API."""

    def __init__(self, app: Guard) -> None:
        settings = app.settings
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                log_level="warning",
                access_log=False,
                server_header=False,
                h11_max_incomplete_event_size=settings.max_header,
                timeout_keep_alive=30,
                http=Connection,
                ws="none",
            )
        )
        self.app, self.forced = app, False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at the first signal; do not wait for running answers after a second one."""
        if self.should_exit:
            self.forced = True
        else:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, and end running answers."""
        ending = asyncio.create_task(self._end())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _end(self) -> None:
        if self.server_state.tasks:
            log.warning("stopping: running answers have %g seconds to finish; Ctrl-C cancels them now", GRACE)
        loop = asyncio.get_running_loop()
        end = loop.time() + GRACE
        while not self.forced and loop.time() < end:
            await asyncio.sleep(0.05)
        self.app.stop()
        await asyncio.sleep(_CLOSE_DELAY)
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # clients that do not read their error
