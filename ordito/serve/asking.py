"""From a request of any dialect to the engine, and back: what the dialects have in common."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest

from ordito.engine.engine import Engine
from ordito.engine.request import Delta
from ordito.engine.stream import Generation, Stream
from ordito.serve.errors import ApiError
from ordito.serve.metrics import Metrics
from ordito.serve.models import ModelPool, Served
from ordito.serve.settings import ServerSettings

T = TypeVar("T")


class Asked:
    """One request to a model: it holds the model, and its answers as they come. To be closed when they are no more wanted."""

    def __init__(self, server: Server, served: Served, stream: Stream, stack: AsyncExitStack) -> None:
        self.server, self.served, self.stream, self._stack = server, served, stream, stack
        self.created = int(time.time())
        self.tokenizer = served.ready[0].tokenizer

    async def deltas(self) -> AsyncGenerator[Delta]:
        """What comes of all answers, until the time that a request may take is over."""
        metrics, last = self.server.metrics, None
        # Also where nothing comes, because others are read first or the prompt is long.
        timer = asyncio.get_running_loop().call_later(self.server.settings.request_seconds, self.stream.cancel)
        try:
            async with aclosing(self.stream.adeltas()) as coming:
                async for delta in coming:
                    if delta.finish == "cancelled":
                        self.server.check()
                    now = time.perf_counter()
                    metrics.token(self.served.name, now - (self.stream.box.start if last is None else last), first=last is None)
                    last = now
                    yield delta
        finally:
            timer.cancel()
            await self.close()

    async def finished(self, http: HttpRequest) -> list[Generation]:
        """All answers when they are made; they are not, where the asker leaves before."""
        await unless_gone(http, self._make())
        return self.stream.results

    async def _make(self) -> None:
        async with aclosing(self.deltas()) as coming:
            async for _ in coming:
                pass

    async def close(self) -> None:
        """End the answers, where they are not, and let go of the model."""
        if self.stream.box.left:
            self.stream.cancel()
        self.server.asked.discard(self)
        await self._stack.aclose()


class Server:
    """What all routes share."""

    def __init__(self, pool: ModelPool, settings: ServerSettings) -> None:
        self.pool, self.settings, self.metrics = pool, settings, Metrics(pool)
        self.asked: set[Asked] = set()
        self.stopping = False

    def stop(self) -> None:
        """The server stops: what is being answered ends where it is, and nothing else begins."""
        self.stopping = True
        for one in self.asked:
            one.stream.cancel()

    def check(self) -> None:
        """Raises `ApiError` where the server stops."""
        if self.stopping:
            raise ApiError(503, "the server is stopping")

    def _check_waiting(self, engine: Engine) -> None:
        if engine.waiting >= self.settings.max_waiting:
            raise too_many(engine.waiting)

    async def recommended(self, name: str | None) -> Mapping[str, Any]:
        """What a model's authors recommend to sample with; it is loaded for that, as it is about to be asked."""
        async with self.pool.use(name) as served:
            return served.ready[0].checkpoint.generation

    async def ask(
        self,
        http: HttpRequest,
        model: str | None,
        prompt: Any,
        settings: Mapping[str, Any],
        *,
        keep_alive: float | None = None,
        salt: str = "",
    ) -> Asked:
        """Ask a model. Raises `ApiError` where too many wait or the server stops, and what `Model.prepare` raises."""
        stack = AsyncExitStack()
        try:
            served = await stack.enter_async_context(self.pool.use(model, keep_alive))
            loaded, engine = served.ready
            self._check_waiting(engine)
            user = f"{http.state.user}/{salt}"
            # Templates, tokens and grammars take their time, which others shall not wait for.
            most = min(filter(None, (settings.get("context"), self.settings.context)), default=None)
            request = await asyncio.to_thread(loaded.prepare, prompt, user=user, **{**settings, "context": most})
            self.check()
            self._check_waiting(engine)  # again: others came meanwhile
            asked = Asked(self, served, engine.submit(request), stack)
            self.asked.add(asked)
            return asked
        except BaseException:
            await stack.aclose()
            raise


def too_many(waiting: int) -> ApiError:
    """Why a request is not taken while so many wait."""
    return ApiError(429, f"{waiting} requests are waiting already, which is all that may: try again later")


async def unless_gone(http: HttpRequest, work: Coroutine[Any, Any, T]) -> T:
    """What comes of some work, which ends where the asker leaves before. Raises `ApiError` then."""
    leaving = asyncio.create_task(_gone(http))
    working = asyncio.create_task(work)
    try:
        await asyncio.wait({leaving, working}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client left")
        return await working
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(http: HttpRequest) -> None:
    """Returns when the asker has left."""
    while True:
        message = await http.receive()
        if message["type"] == "http.disconnect":
            return


def split(prompt: str | Sequence[Any]) -> list[Any]:
    """The prompts of a completion: texts or lists of token ids, of which there may be one or several."""
    if isinstance(prompt, str):
        return [prompt]
    if prompt and all(isinstance(item, int) and not isinstance(item, bool) for item in prompt):
        return [list(prompt)]
    return list(prompt)
