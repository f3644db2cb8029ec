"""Streamed responses: server-sent events and lines of JSON."""

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
    """A response of one JSON object: the fields of `head`, then a long list called `name`.

    The items are made and serialised on a thread, and sent one by one: megabytes of JSON in one piece would block the event
    loop.
    """

    def serialised() -> list[bytes]:
        return [json.dumps(item, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") for item in items]

    async def sent() -> AsyncGenerator[bytes]:
        for place, piece in enumerate(pieces):
            yield (b"," if place else opening) + piece
            await asyncio.sleep(0)
        yield (b"" if pieces else opening) + b"]}"

    pieces, opening = await asyncio.to_thread(serialised), line({**head, name: []})[:-3]
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
    """A response that streams `chunks`. A `ping` is sent after `ping_seconds` without a chunk, so that proxies do not close the
    connection; `failed` formats an error in the middle of the stream, which then ends."""
    guarded = _with_error(chunks, failed)
    body = guarded if ping is None else _with_pings(guarded, ping, ping_seconds)
    return StreamingResponse(_one_by_one(body), media_type=media_type, headers={**_HEADERS, **(headers or {})})


async def _one_by_one(chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """The chunks, with a turn for the event loop after each: however many are ready, a disconnect is noticed in between."""
    async with aclosing(chunks):
        async for chunk in chunks:
            yield chunk
            await asyncio.sleep(0)


async def _with_error(chunks: AsyncGenerator[bytes], failed: Callable[[ApiError], bytes]) -> AsyncGenerator[bytes]:
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk
    except Exception as error:
        import logging

        answer = as_api_error(error)
        if answer.status >= 500 and answer is not error:
            logging.getLogger("ordito.serve").exception("an answer failed while it was sent")
        yield failed(answer)


async def _with_pings(chunks: AsyncGenerator[bytes], ping: bytes, seconds: float) -> AsyncGenerator[bytes]:
    """The chunks, with a ping whenever none came for so many `seconds`."""
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(64)  # bounded: a slow client slows the producer down

    async def read() -> None:
        async with aclosing(chunks):
            async for chunk in chunks:
                await queue.put(chunk)
        await queue.put(None)  # not in a `finally`: after a cancellation nothing takes from a full queue

    reading = asyncio.create_task(read())
    try:
        while True:
            try:
                async with asyncio.timeout(seconds):  # wait_for may swallow a cancellation in Python 3.11
                    chunk = await queue.get()
            except TimeoutError:
                chunk = None if reading.done() and queue.empty() else ping  # a failed producer puts no end into the queue
            if chunk is None:
                return
            yield chunk
    finally:
        reading.cancel()
