"""From an HTTP request to the engine and back: what the APIs of OpenAI, Anthropic and Ollama share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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


class ActiveRequest:
    """A request that a model is answering. It keeps the model loaded until it is closed, which ends its answers."""

    def __init__(self, server: Server, served: Served, stream: Stream, stack: AsyncExitStack) -> None:
        self.server, self.served, self.stream, self._stack = server, served, stream, stack
        self.created = int(time.time())
        self.tokenizer = served.ready[0].tokenizer

    async def deltas(self) -> AsyncGenerator[Delta]:
        """The deltas of all answers, until they are finished or `request_seconds` are over."""
        metrics, last = self.server.metrics, dict[int, float]()  # when each answer's last token came
        # A timer, because there may be no delta for long: while the request is queued, or a long prompt is prefilled.
        timer = asyncio.get_running_loop().call_later(self.server.settings.request_seconds, self.stream.cancel)
        try:
            async with aclosing(self.stream.adeltas()) as deltas:
                async for delta in deltas:
                    if delta.finish == "cancelled":
                        self.server.check()
                    if delta.tokens:
                        now = time.perf_counter()
                        if delta.index in last or not last:
                            before = last.get(delta.index, self.stream.box.start)
                            metrics.token(self.served.name, now - before, first=not last)
                        last[delta.index] = now
                    yield delta
        finally:
            timer.cancel()
            await self.close()

    async def finished(self, http: HttpRequest) -> list[Generation]:
        """All answers, whole. Raises `ApiError` if the client disconnects before they are finished."""
        await until_disconnect(http, self._finish())
        return self.stream.results

    async def _finish(self) -> None:
        async with aclosing(self.deltas()) as deltas:
            async for _ in deltas:
                pass

    async def close(self) -> None:
        """Cancel unfinished answers and release the model."""
        if self.stream.box.left:
            self.stream.cancel()
        self.server.active.discard(self)
        await self._stack.aclose()


class Server:
    """What all routes share: the models, the settings, the metrics and the requests that are being answered."""

    def __init__(self, pool: ModelPool, settings: ServerSettings) -> None:
        self.pool, self.settings, self.metrics = pool, settings, Metrics(pool)
        self.active: set[ActiveRequest] = set()
        self.stopping = False
        # No context limits texts that are only counted: those of megabytes wait for each other, and nothing waits for them.
        self._counting = ThreadPoolExecutor(1, "ordito-tokens")

    def stop(self) -> None:
        """Stop the server: cancel all running answers and refuse new requests."""
        self.stopping = True
        self._counting.shutdown(wait=False, cancel_futures=True)
        for one in self.active:
            one.stream.cancel()

    async def counted(self, work: Callable[[], T]) -> T:
        """The result of `work`, which tokenizes a text that no model will read: on a thread, after the work before it.

        Raises `ApiError` if the server is stopping, and what `work` raises.
        """
        self.check()
        return await asyncio.get_running_loop().run_in_executor(self._counting, work)

    def check(self) -> None:
        """Raise `ApiError` (503) if the server is stopping."""
        if self.stopping:
            raise ApiError(503, "the server is stopping")

    def _check_waiting(self, engine: Engine) -> None:
        if engine.waiting >= self.settings.max_waiting:
            raise queue_full(engine.waiting)

    async def recommended(self, name: str | None) -> Mapping[str, Any]:
        """The sampling settings of a model's generation_config.json. Loads the model, which the request needs anyway."""
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
    ) -> ActiveRequest:
        """Submit a prompt to a model's engine; `settings` are those of `Model.prepare`, `salt` separates prefix caches.

        Raises `ApiError` if the queue is full or the server is stopping, and what `Model.prepare` raises.
        """
        stack = AsyncExitStack()
        try:
            served = await stack.enter_async_context(self.pool.use(model, keep_alive))
            loaded, engine = served.ready
            self._check_waiting(engine)
            user = f"{http.state.user}/{salt}"
            # On a thread, because rendering, tokenizing and compiling a grammar may take seconds.
            limit = min(filter(None, (settings.get("context"), self.settings.context)), default=None)
            request = await asyncio.to_thread(loaded.prepare, prompt, user=user, **{**settings, "context": limit})
            self.check()
            self._check_waiting(engine)  # again: other requests may have been queued meanwhile
            active = ActiveRequest(self, served, engine.submit(request), stack)
            self.active.add(active)
            return active
        except BaseException:
            await stack.aclose()
            raise


def queue_full(waiting: int) -> ApiError:
    """The refusal (429) of a request while the queue is full."""
    return ApiError(429, f"the queue is full: {waiting} requests are waiting already; try again later")


async def until_disconnect(http: HttpRequest, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client disconnects before. Raises `ApiError` (499) then."""
    disconnecting = asyncio.create_task(_disconnected(http))
    working = asyncio.create_task(work)
    try:
        await asyncio.wait({disconnecting, working}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client disconnected")
        return await working
    finally:
        working.cancel()
        disconnecting.cancel()
        await asyncio.gather(working, disconnecting, return_exceptions=True)


async def _disconnected(http: HttpRequest) -> None:
    """Return when the client has disconnected."""
    while True:
        message = await http.receive()
        if message["type"] == "http.disconnect":
            return


def split(prompt: str | Sequence[Any]) -> list[Any]:
    """The prompts of a completion, each a text or a list of token ids; `prompt` may be a single one or a list of them."""
    if isinstance(prompt, str):
        return [prompt]
    if prompt and all(isinstance(item, int) and not isinstance(item, bool) for item in prompt):
        return [list(prompt)]
    return list(prompt)
