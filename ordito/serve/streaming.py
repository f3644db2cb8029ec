"""Answers that are sent while they are made: server-sent events and lines of JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from starlette.responses import StreamingResponse

from ordito.serve.errors import ApiError, as_api_error

_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def event(data: Any, name: str | None = None) -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return (f"event: {name}\n" if name else "").encode() + b"data: " + text.encode("utf-8", "replace") + b"\n\n"


def line(data: Any) -> bytes:
    """One line of JSON."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


def events(
    chunks: AsyncGenerator[bytes],
    failed: Callable[[ApiError], bytes],
    *,
    ping: bytes | None = b": ping\n\n",
    ping_seconds: float = 15.0,
    media_type: str = "text/event-stream; charset=utf-8",
    headers: Mapping[str, str] | None = None,
) -> StreamingResponse:
    """A response of `chunks`. While nothing comes, `ping` keeps proxies awake; `failed` tells of an error in between."""
    told = _told(chunks, failed)
    body = told if ping is None else _awake(told, ping, ping_seconds)
    return StreamingResponse(body, media_type=media_type, headers={**_HEADERS, **(headers or {})})


async def _told(chunks: AsyncGenerator[bytes], failed: Callable[[ApiError], bytes]) -> AsyncGenerator[bytes]:
    try:
        async for chunk in chunks:
            yield chunk
    except Exception as error:
        import logging

        told = as_api_error(error)
        if told.status >= 500:
            logging.getLogger("ordito.serve").exception("an answer failed while it was sent")
        yield failed(told)


async def _awake(chunks: AsyncGenerator[bytes], ping: bytes, seconds: float) -> AsyncGenerator[bytes]:
    """The chunks, with a ping whenever none came for some time."""
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(64)  # bounded: who reads slowly makes the sender wait

    async def read() -> None:
        try:
            async for chunk in chunks:
                await queue.put(chunk)
        finally:
            await queue.put(None)

    reading = asyncio.create_task(read())
    try:
        while True:
            try:
                chunk = await asyncio.wait_for(queue.get(), seconds)
            except TimeoutError:
                chunk = ping
            if chunk is None:
                return
            yield chunk
    finally:
        reading.cancel()
