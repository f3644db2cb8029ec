"""Streams whose client stops reading before their end."""

from __future__ import annotations

import asyncio

import pytest

from ordito.serve.streaming import events


def test_a_client_that_stops_reading_and_disconnects_ends_the_answer():
    ended = []

    async def chunks():
        try:
            while True:
                yield b"the loom"
        finally:
            ended.append(True)

    async def asked():
        body = events(chunks(), lambda error: b"").body_iterator
        await anext(body)
        await asyncio.sleep(0.05)  # more is produced than is read
        await body.aclose()
        await asyncio.sleep(0.05)
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert not asyncio.run(asked())
    assert ended


@pytest.mark.parametrize("ping", [b": ping\n\n", None])
def test_a_disconnect_ends_an_answer_that_is_computed_faster_than_it_is_sent(ping):
    ended = []

    async def chunks():
        try:
            for _ in range(1_000_000):
                yield b"the loom"
        finally:
            ended.append(True)

    async def read():
        async for _ in events(chunks(), lambda error: b"", ping=ping).body_iterator:
            pass

    async def asked():
        reading = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        reading.cancel()
        await asyncio.wait({reading}, timeout=2)
        return reading.done() and reading.cancelled()

    assert asyncio.run(asked())
    assert ended
