"""Embeddings in small batches, so that concurrent requests take turns and one whose client disconnects ends soon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from starlette.requests import Request as HttpRequest

from ordito.embed.pool import cut as cut_ids
from ordito.embed.pool import embed_ids
from ordito.embed.shorten import check_width, shortened
from ordito.errors import ContextError, OrditoError
from ordito.model import Model
from ordito.runtime import Floats
from ordito.serve.asking import Server, queue_full, until_disconnect
from ordito.serve.errors import ApiError
from ordito.serve.fields import MAX_INPUTS, keep_alive_seconds
from ordito.serve.models import Served

T = TypeVar("T")

MAX_TOKENS = 1 << 20
"""Tokens of all texts of a request, at most."""
_TOKENIZED_CHARACTERS = 1 << 14
"""Characters of a batch of texts to tokenize; a longer text is a batch of its own."""
_BATCH_TOKENS, _BATCH_TEXTS = 2048, 32
"""Tokens and texts of a batch for the model; a longer text is a batch of its own."""
_CHARACTERS_PER_TOKEN = 32
"""Characters tokenized first for each token that a model can embed: a text that is far too long is not tokenized whole."""


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
    truncate: bool = False,
) -> tuple[Floats, int]:
    """The vectors (texts, D) and the number of tokens in all. `prompt` names the task, whose prefix is put before each text; an
    `optional` one is left out if the model does not have it. `dimensions`: numbers of each vector, if not all.

    Raises `ApiError` for no texts, too many or empty ones, a full queue, a request that takes too long and a client that
    disconnects, and `ContextError` for a text that is longer than the model embeds, unless `truncate`.
    """
    _check(texts)
    settings = server.settings
    async with server.pool.use(name, keep_alive_seconds(keep_alive)) as served:
        model = served.ready[0]
        if dimensions is not None:
            try:
                check_width(model.checkpoint, dimensions)
            except OrditoError as error:
                raise ApiError(400, str(error), param="dimensions") from None
        if served.embedding > settings.max_waiting:  # one of them is running
            raise queue_full(served.embedding - 1)
        prefix = model.task_words(None if optional and prompt not in model.prompts else prompt)
        served.embedding += 1
        try:
            async with asyncio.timeout(settings.request_seconds):
                work = _embedded(server, served, model, [prefix + text for text in texts], truncate)
                vectors, tokens = await until_disconnect(http, work)
                return vectors if dimensions is None else shortened(vectors, dimensions, model.checkpoint), tokens
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
            "input has token ids, but they may be of another tokenizer: send texts "
            "(LangChain does with check_embedding_ctx_length=False)",
            param="input",
        )
    if len(texts) > MAX_INPUTS:
        raise ApiError(400, f"got {len(texts)} texts, expected at most {MAX_INPUTS}", param="input")
    if any(not text for text in texts):
        raise ApiError(400, "input has an empty text", param="input")


async def _embedded(server: Server, served: Served, model: Model, texts: list[str], truncate: bool) -> tuple[Floats, int]:
    encoded: list[list[int]] = []
    total = 0
    for batch in _batches(list(range(len(texts))), [len(text) for text in texts], _TOKENIZED_CHARACTERS, len(texts)):
        ids = await _in_turn(server, served, partial(_encoded, model, [(place, texts[place]) for place in batch], truncate))
        encoded += ids
        total += sum(map(len, ids))
        if total > MAX_TOKENS:
            raise ApiError(400, f"the texts have more than {MAX_TOKENS:,} tokens together: send fewer at once", param="input")
    lengths = [len(ids) for ids in encoded]
    vectors: Floats | None = None
    for batch in _batches(sorted(range(len(texts)), key=lengths.__getitem__), lengths, _BATCH_TOKENS, _BATCH_TEXTS):
        found = await _in_turn(server, served, partial(embed_ids, model.runtime, [encoded[place] for place in batch]))
        vectors = np.zeros((len(texts), found.shape[1]), np.float32) if vectors is None else vectors
        vectors[batch] = found
    assert vectors is not None
    server.metrics.embedded.labels(served.name).inc(total)
    return vectors, total


async def _in_turn(server: Server, served: Served, work: Callable[[], T]) -> T:
    """Run `work` on a thread, after the work of other requests to the model that came before."""
    async with served.embed_lock:
        server.check()
        working = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(working)
        finally:
            await asyncio.gather(working, return_exceptions=True)  # a thread cannot be cancelled


def _batches(places: Sequence[int], sizes: Sequence[int], max_size: int, max_count: int) -> Iterator[list[int]]:
    """`places` in batches of successive ones, each of at most `max_count` with sizes of at most `max_size` in sum."""
    batch: list[int] = []
    size = 0
    for place in places:
        if batch and (size + sizes[place] > max_size or len(batch) == max_count):
            yield batch
            batch, size = [], 0
        batch.append(place)
        size += sizes[place]
    yield batch


def _encoded(model: Model, texts: Sequence[tuple[int, str]], truncate: bool) -> list[list[int]]:
    return [_ids(model, text, place, truncate) for place, text in texts]


def _ids(model: Model, text: str, place: int, truncate: bool) -> list[int]:
    """The token ids of a text; `place` is its index in the request. Raises `ContextError` if it has none or too many."""
    pooling, context = model.spec.pooling, model.spec.context
    longest = min((pooling.max_tokens if pooling else None) or context, context)
    size = _CHARACTERS_PER_TOKEN * longest
    ids = model.tokenizer.encode(text[:size])
    while size < len(text) and len(ids) <= 2 * longest:  # the last tokens of a text depend on where it is cut off
        size *= 4
        ids = model.tokenizer.encode(text[:size])
    if not ids:
        raise ContextError(f"text {place} has no tokens, expected at least one")
    if len(ids) <= longest:
        return ids
    if truncate:
        return cut_ids(model.tokenizer, ids, longest)
    least = "at least " if size < len(text) else ""
    raise ContextError(
        f"text {place} has {least}{len(ids):,} tokens, expected at most {longest:,}: shorten it, or send truncate: true",
        len(ids),
        longest,
    )
