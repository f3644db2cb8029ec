"""Answers that are sent while they are made: server-sent events and lines of JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
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


async def long_list(
    head: Mapping[str, Any], name: str, items: Iterable[Any], headers: Mapping[str, str] | None = None
) -> StreamingResponse:
    """A response of a JSON object, `head`, that ends with a long list.

    It is written aside, one item after another, since JSON of megabytes in one piece would keep everyone waiting.
    """

    def written() -> list[bytes]:
        return [json.dumps(item, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") for item in items]

    async def sent() -> AsyncGenerator[bytes]:
        for place, piece in enumerate(pieces):
            yield (b"," if place else opening) + piece
            await asyncio.sleep(0)
        yield (b"" if pieces else opening) + b"]}"

    pieces, opening = await asyncio.to_thread(written), line({**head, name: []})[:-3]
    size = len(opening) + sum(map(len, pieces)) + max(0, len(pieces) - 1) + 2
    return StreamingResponse(sent(), media_type="application/json", headers={"content-length": str(size), **(headers or {})})


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
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk
    except Exception as error:
        import logging

        told = as_api_error(error)
        if told.status >= 500 and told is not error:
            logging.getLogger("ordito.serve").exception("an answer failed while it was sent")
        yield failed(told)


async def _awake(chunks: AsyncGenerator[bytes], ping: bytes, seconds: float) -> AsyncGenerator[bytes]:
    """The chunks, with a ping whenever none came for some time."""
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(64)  # bounded: who reads slowly makes the sender wait

    async def read() -> None:
        async with aclosing(chunks):
            async for chunk in chunks:
                await queue.put(chunk)
        await queue.put(None)  # not where it is cancelled: nobody takes from a full queue any more

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
