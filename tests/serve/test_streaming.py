"""Streams whose client stops reading before their end."""

from __future__ import annotations

import asyncio

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
