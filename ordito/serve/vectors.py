"""Texts to vectors, a piece at a time: between two pieces others have their turn, and what nobody waits for any more ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from starlette.requests import Request as HttpRequest

from ordito.embed.pool import cut as cut_ids
from ordito.embed.pool import embed_ids
from ordito.errors import ContextError
from ordito.model import Model
from ordito.runtime import Floats
from ordito.serve.asking import Server, too_many, unless_gone
from ordito.serve.errors import ApiError
from ordito.serve.fields import MAX_INPUTS, keep_alive_seconds
from ordito.serve.models import Served

T = TypeVar("T")

MAX_TOKENS = 1 << 20
"""Of all texts of a request."""
_CHARACTERS, _TOKENS, _TEXTS = 1 << 14, 2048, 32
"""Of a piece: what is cut into tokens together, and what the model reads together. One text may have more."""
_LOOKED_AT = 32
"""Characters that are looked at first, for each token that a model embeds: most of a text far too long need not be."""


async def embedded(
    server: Server,
    http: HttpRequest,
    name: str,
    texts: Sequence[Any],
    prompt: str | None = None,
    dimensions: int | None = None,
    keep_alive: Any = None,
    *,
    optional: bool = False,
    cut: bool = False,
) -> tuple[Floats, int]:
    """The vectors (texts, D) and how many tokens were read; an `optional` prompt goes where the model has no words for it.

    Raises `ApiError` for texts that are none or too many, for a queue that is full and a time that is over, `ContextError` for
    a text that is longer than the model embeds, unless it is to be `cut`.
    """
    _check(texts)
    settings = server.settings
    async with server.pool.use(name, keep_alive_seconds(keep_alive)) as served:
        model = served.ready[0]
        if dimensions is not None and dimensions != model.spec.d_model:
            raise ApiError(
                400, f"dimensions: this model makes vectors of {model.spec.d_model} numbers only", param="dimensions"
            )
        if served.embedding > settings.max_waiting:  # one of them is being answered
            raise too_many(served.embedding - 1)
        words = model.task_words(None if optional and prompt not in model.prompts else prompt)
        served.embedding += 1
        try:
            async with asyncio.timeout(settings.request_seconds):
                return await unless_gone(http, _embedded(server, served, model, [words + text for text in texts], cut))
        except TimeoutError:
            raise ApiError(
                504, f"the vectors took longer than {settings.request_seconds:g} seconds: send fewer texts"
            ) from None
        finally:
            served.embedding -= 1


def _check(texts: Sequence[Any]) -> None:
    if not texts:
        raise ApiError(400, "input is empty, expected a text or a list of texts", param="input")
    if not isinstance(texts[0], str):
        raise ApiError(
            400,
            "input has token ids, which mean nothing without their vocabulary: send texts "
            "(LangChain does with check_embedding_ctx_length=False)",
            param="input",
        )
    if len(texts) > MAX_INPUTS:
        raise ApiError(400, f"got {len(texts)} texts, expected at most {MAX_INPUTS}", param="input")
    if any(not text for text in texts):
        raise ApiError(400, "input has an empty text", param="input")


async def _embedded(server: Server, served: Served, model: Model, texts: list[str], cut: bool) -> tuple[Floats, int]:
    encoded: list[list[int]] = []
    total = 0
    for some in _pieces(list(range(len(texts))), [len(text) for text in texts], _CHARACTERS, len(texts)):
        new = await _in_turn(server, served, partial(_encoded, model, [(place, texts[place]) for place in some], cut))
        encoded += new
        total += sum(map(len, new))
        if total > MAX_TOKENS:
            raise ApiError(400, f"the texts have more than {MAX_TOKENS:,} tokens together: send fewer at once", param="input")
    lengths = [len(ids) for ids in encoded]
    vectors: Floats | None = None
    for some in _pieces(sorted(range(len(texts)), key=lengths.__getitem__), lengths, _TOKENS, _TEXTS):
        found = await _in_turn(server, served, partial(embed_ids, model.runtime, [encoded[place] for place in some]))
        vectors = np.zeros((len(texts), found.shape[1]), np.float32) if vectors is None else vectors
        vectors[some] = found
    assert vectors is not None
    server.metrics.embedded.labels(served.name).inc(total)
    return vectors, total


async def _in_turn(server: Server, served: Served, work: Callable[[], T]) -> T:
    """A piece of work aside, when those that came before had theirs."""
    async with served.turn:
        server.check()
        working = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(working)
        finally:
            await asyncio.gather(working, return_exceptions=True)  # nothing stops a thread: the next one begins behind it


def _pieces(places: Sequence[int], sizes: Sequence[int], most: int, together: int) -> Iterator[list[int]]:
    """Neighbours in `places`, up to so much together and so many."""
    some: list[int] = []
    size = 0
    for place in places:
        if some and (size + sizes[place] > most or len(some) == together):
            yield some
            some, size = [], 0
        some.append(place)
        size += sizes[place]
    yield some


def _encoded(model: Model, texts: Sequence[tuple[int, str]], cut: bool) -> list[list[int]]:
    return [_ids(model, text, place, cut) for place, text in texts]


def _ids(model: Model, text: str, place: int, cut: bool) -> list[int]:
    pooling, context = model.spec.pooling, model.spec.context
    longest = min((pooling.max_tokens if pooling else None) or context, context)
    size = _LOOKED_AT * longest
    ids = model.tokenizer.encode(text[:size])
    while size < len(text) and len(ids) <= 2 * longest:  # where a text is cut off, its last tokens are others
        size *= 4
        ids = model.tokenizer.encode(text[:size])
    if not ids:
        raise ContextError(f"text {place} has no tokens, expected at least one")
    if len(ids) <= longest:
        return ids
    if cut:
        return cut_ids(model.tokenizer, ids, longest)
    least = "at least " if size < len(text) else ""
    raise ContextError(
        f"text {place} has {least}{len(ids):,} tokens, of at most {longest:,}: shorten it, or send truncate", len(ids), longest
    )
