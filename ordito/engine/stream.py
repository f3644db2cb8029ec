"""Streams of answers, and their results, as the caller of the engine sees them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ordito.engine.request import Delta, FinishReason, Request, Token
from ordito.errors import OrditoError
from ordito.text.answers import Part, Said, joined

if TYPE_CHECKING:
    from ordito.engine.engine import Engine


@dataclass(frozen=True)
class Generation:
    """The answer of a model.

    - `text` is the answer, `thinking` its reasoning, `calls` the tool calls, each (id, name, arguments as JSON text).
    - `finish_reason`: `stop` at an end token, a stop string (which is then in `stop`) or the end of a grammar, `length` at
      `max_tokens` or the end of the context, `cancelled` if the caller cancelled it.
    - `token_ids` are the new tokens without the end token, `tokens` the same with the log probabilities that were asked for;
      `prompt_ids` and `prompt` those of the prompt.
    - `prompt_tokens` counts the prompt, `cached_tokens` those that came from the prefix cache; `missed` says why not all did.
    - `prompt_seconds` is wall time until the first token, of which `queued` was spent waiting, and `seconds` that of the rest.
    - Of `drafted` tokens of speculative decoding `accepted` were right; `thought_tokens` of the new tokens are reasoning.
    """

    text: str
    thinking: str
    calls: tuple[tuple[str, str, str], ...]
    token_ids: list[int]
    tokens: list[Token]
    prompt: list[Token]
    prompt_ids: list[int]
    finish_reason: FinishReason
    stop: str | None
    prompt_tokens: int
    cached_tokens: int
    missed: str
    prompt_seconds: float
    queued: float
    seconds: float
    drafted: int
    accepted: int
    thought_tokens: int


class Mailbox:
    """Where the engine puts the deltas of a request for its stream, and its counts and times."""

    def __init__(self, request: Request, start: float) -> None:
        self.request, self.start = request, start
        self.cached = 0
        self.missed = ""
        self.admitted: float | None = None
        self.first: float | None = None
        self.last = start
        self.drafted = self.accepted = self.thought = 0
        self.left = request.n  # answers that are not finished
        self.cancelled = False  # the caller has cancelled the request
        self.error: BaseException | None = None
        self.waiting: deque[Delta] = deque()
        self.arrived = threading.Event()
        self.notify: Callable[[], object] | None = None

    def put(self, delta: Delta, now: float) -> None:
        """Add a delta at the time `now`, unless the request has ended or failed."""
        if not self.left:
            return
        self.first = now if self.first is None else self.first
        self.last = now
        self.waiting.append(delta)
        self.left -= delta.finish is not None
        self._signal()

    def fail(self, error: BaseException) -> None:
        """End the request with an error."""
        self.error, self.left, self.cancelled = error, 0, True
        self._signal()

    def _signal(self) -> None:
        self.arrived.set()
        notify = self.notify
        if notify is not None:
            notify()


class Stream:
    """The answers to one request. Iterate over the pieces of text of the first, or over `deltas` of all; then see `result`.

    Leaving the loop early pauses the answer; `result` then holds what was made so far, with the finish reason `length`. A
    second loop continues where the first stopped. A stream that is garbage-collected is cancelled.
    """

    def __init__(self, engine: Engine, box: Mailbox) -> None:
        self.engine, self.box, self.request = engine, box, box.request
        self._taken: list[list[Delta]] = [[] for _ in range(box.request.n)]

    def cancel(self) -> None:
        """Cancel the answers: the engine ends them before its next step."""
        self.box.cancelled = True
        self.engine.wake()

    def __del__(self) -> None:
        if self.box.left:
            self.cancel()

    def deltas(self) -> Iterator[Delta]:
        """The deltas of all answers as they come. Raises the error that the engine failed with, if it did."""
        box = self.box
        while True:
            box.arrived.clear()
            if box.waiting:
                yield self._take()
            elif box.left:
                self.engine.drive(box.arrived)
            else:
                self._raise()
                return

    async def adeltas(self) -> AsyncGenerator[Delta]:
        """The same for an event loop, with the engine on its own thread. Leaving it early cancels the answers."""
        import asyncio  # imported late: it takes as long as everything else here, and only servers need it

        box, loop, arrived = self.box, asyncio.get_running_loop(), asyncio.Event()
        box.notify = lambda: loop.call_soon_threadsafe(arrived.set)
        self.engine.start()
        try:
            while True:
                arrived.clear()
                if box.waiting:
                    yield self._take()
                elif box.left:
                    await arrived.wait()
                else:
                    self._raise()
                    return
        finally:
            box.notify = None
            if box.left:
                self.cancel()

    def _raise(self) -> None:
        error, self.box.error = self.box.error, None
        if error is not None:
            raise error if isinstance(error, OrditoError) else RuntimeError("the engine failed") from error

    def _take(self) -> Delta:
        delta = self.box.waiting.popleft()
        self._taken[delta.index].append(delta)
        return delta

    def __iter__(self) -> Iterator[str]:
        for delta in self.deltas():
            if delta.index == 0 and (text := "".join(part.text for part in delta.parts if isinstance(part, Said))):
                yield text

    def parts(self) -> Iterator[Part]:
        """The parts of the first answer as they come: text, thoughts, calls."""
        for delta in self.deltas():
            if delta.index == 0:
                yield from delta.parts

    @property
    def result(self) -> Generation:
        """The first answer so far; the whole answer once the stream is used up."""
        return self.results[0]

    @property
    def results(self) -> list[Generation]:
        """All answers so far."""
        return [self._result(deltas) for deltas in self._taken]

    def _result(self, deltas: list[Delta]) -> Generation:
        box = self.box
        answer = joined(part for delta in deltas for part in delta.parts)
        tokens = [token for delta in deltas for token in delta.tokens]
        ended = next((delta for delta in reversed(deltas) if delta.finish), None)
        first = box.first or box.last
        return Generation(
            text=answer.text,
            thinking=answer.thinking,
            calls=answer.calls,
            token_ids=[token.id for token in tokens],
            tokens=tokens,
            prompt=[token for delta in deltas for token in delta.prompt],
            prompt_ids=list(self.request.prompt),
            finish_reason=ended.finish if ended and ended.finish else "length",
            stop=ended.stop if ended else None,
            prompt_tokens=len(self.request.prompt),
            cached_tokens=box.cached,
            missed=box.missed,
            prompt_seconds=first - box.start,
            queued=(box.admitted or box.start) - box.start,
            seconds=box.last - first,
            drafted=box.drafted,
            accepted=box.accepted,
            thought_tokens=box.thought,
        )
