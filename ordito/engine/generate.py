"""One request -> a stream of text: feed the prompt, choose tokens, turn them into text, know when to stop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ordito.engine.sampling import Sampler, Sampling
from ordito.errors import ContextError, OrditoError
from ordito.runtime import Floats, Session
from ordito.text.stream import StopStrings
from ordito.text.tokenizer import Tokenizer

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Generation:
    """What a model answered.

    `finish_reason`: `stop` at an end token or a stop string, `length` at `max_tokens` or the end of the context.
    `token_ids` are the new tokens, the end token left out. `prompt_tokens` counts the prompt, `cached_tokens` those of it
    that an earlier turn had left in the cache. Seconds are wall time, for the prompt and for the rest.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    prompt_seconds: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt in token ids and how it is to be continued."""

    prompt: Sequence[int]
    sampling: Sampling
    max_tokens: int
    stop: Sequence[str] = ()
    end_ids: frozenset[int] = frozenset()
    context: int


class Stream:
    """An answer while it is made: iterate over its pieces of text; `result` is whole when they are used up.

    Leaving the loop early stops the work; `result` then holds what was made so far, as `length`. The answer is made once:
    a second loop goes on where the first was left.
    """

    def __init__(self, session: Session, tokenizer: Tokenizer, request: Request, cached: Sequence[int] = ()) -> None:
        check(request)
        self.session, self.tokenizer, self.request, self.cached = session, tokenizer, request, cached
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason = "length"
        self.pieces: list[str] = []
        self.prompt_seconds = self.seconds = 0.0
        self.shared = 0
        self.made = self._run()

    @property
    def context_ids(self) -> list[int]:
        """The prompt and the new tokens: what the session has read, or is about to."""
        return [*self.request.prompt, *self.token_ids]

    @property
    def result(self) -> Generation:
        """The answer so far; the whole answer once the stream is used up."""
        return Generation(
            "".join(self.pieces),
            self.token_ids,
            self.finish_reason,
            len(self.request.prompt),
            self.shared,
            self.prompt_seconds,
            self.seconds,
        )

    def __iter__(self) -> Iterator[str]:
        for piece in self.made:
            if piece:
                self.pieces.append(piece)
                yield piece

    def _run(self) -> Iterator[str]:
        request, sampler = self.request, Sampler(self.request.sampling)
        detokenizer, stops = self.tokenizer.streamer(), StopStrings(request.stop)
        start = time.perf_counter()
        logits = self._feed_prompt()
        self.prompt_seconds = time.perf_counter() - start
        room = min(request.max_tokens, request.context - len(request.prompt))
        start = time.perf_counter()
        for _ in range(room):
            token = sampler.choose(logits, self.context_ids)
            if token in request.end_ids:
                self.finish_reason = "stop"
                break
            self.token_ids.append(token)
            piece, stopped = stops.push(detokenizer.push(token))
            self.seconds = time.perf_counter() - start
            yield piece
            if stopped:
                self.finish_reason = "stop"
                return
            if len(self.token_ids) < room:
                logits = self.session.feed([token])
        piece, stopped = stops.push(detokenizer.flush())
        self.finish_reason = "stop" if stopped else self.finish_reason
        self.seconds = time.perf_counter() - start
        yield piece if stopped else piece + stops.flush()

    def _feed_prompt(self) -> Floats:
        """Feed what the session does not hold yet of the prompt; at least its last token, whose logits are needed."""
        prompt = self.request.prompt
        limit = min(len(self.cached), len(prompt) - 1, self.session.length)
        self.shared = next((i for i in range(limit) if self.cached[i] != prompt[i]), limit)
        self.session.rewind(self.shared)
        self.shared = self.session.length
        return self.session.feed(prompt[self.shared :])


def check(request: Request) -> None:
    """Raise `ContextError` if the prompt does not fit, `OrditoError` for a prompt or a limit that cannot be."""
    if not request.prompt:
        raise OrditoError("the prompt has no tokens, expected at least one")
    if isinstance(request.max_tokens, bool) or not isinstance(request.max_tokens, int) or request.max_tokens < 1:
        raise OrditoError(f"max_tokens is {request.max_tokens!r}, expected a whole number of at least 1")
    if isinstance(request.stop, str) or any(not isinstance(stop, str) or not stop for stop in request.stop):
        raise OrditoError(f"stop is {request.stop!r}, expected a list of strings that are not empty")
    if len(request.prompt) >= request.context:
        raise ContextError(
            f"the prompt has {len(request.prompt):,} tokens, but the model's context holds {request.context:,} "
            "with at least one for the answer: shorten the prompt"
        )
