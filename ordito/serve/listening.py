"""From an application to a server that listens, and how it stops."""

from __future__ import annotations

import asyncio
import logging
import socket
from types import FrameType

import uvicorn

from ordito.serve.connections import Connection
from ordito.serve.guard import Guard

GRACE = 5.0
"""Seconds that running answers have to end when the server stops."""
_LINGER = 2.0
"""Seconds in which the others can be told why they end."""

log = logging.getLogger("ordito.serve")


class Listener(uvicorn.Server):
    """Serves an application until a signal comes. Then nobody is let in any more, and running answers may end by themselves for
    a while, or until the second signal; those that do not are ended with an error of their dialect."""

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
        self.app, self.hurried = app, False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        if self.should_exit:
            self.hurried = True
        else:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop."""
        ending = asyncio.create_task(self._end())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _end(self) -> None:
        if self.server_state.tasks:
            log.warning("stopping: running answers have %g seconds to end; Ctrl-C ends them now", GRACE)
        loop = asyncio.get_running_loop()
        end = loop.time() + GRACE
        while not self.hurried and loop.time() < end:
            await asyncio.sleep(0.05)
        self.app.stop()
        await asyncio.sleep(_LINGER)
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # who does not read what they are told
