"""OpenAI's legacy Completions API: continues texts, and gives the log probabilities of prompts to evaluation harnesses."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from ordito.engine.request import Token
from ordito.engine.stream import Generation
from ordito.serve.asking import ActiveRequest, Server, split
from ordito.serve.errors import ApiError, Json, body_of, new_id
from ordito.serve.fields import IdLists, Ids, OpenFields, Text, Texts, keep_alive_seconds
from ordito.serve.openai_chat import DEFAULTS, finish_reason, finite, usage
from ordito.serve.streaming import event, events, long_list
from ordito.text.answers import Said
from ordito.text.tokenizer import Tokenizer

MAX_PROMPTS = 256
MAX_TOKENS = 16
"""OpenAI's default of `max_tokens`."""


class CompletionBody(OpenFields):
    """POST /v1/completions."""

    prompt: Text | Texts | Ids | IdLists
    echo: bool | None = None
    suffix: Text | None = None
    logprobs: int | None = Field(default=None, ge=0, le=20)
    best_of: int | None = Field(default=None, ge=1, le=16)


def completion_routes(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["OpenAI"])

    @routes.post("/v1/completions")
    @routes.post("/completions", include_in_schema=False)
    async def completions(body: CompletionBody, http: HttpRequest) -> Response:
        """Continue one text or several."""
        prompts = split(body.prompt)
        if not 1 <= len(prompts) <= MAX_PROMPTS:
            raise ApiError(400, f"got {len(prompts)} prompts, expected 1 to {MAX_PROMPTS}", param="prompt")
        if [] in prompts:
            raise ApiError(400, "prompt has an empty list, expected at least one token", param="prompt")
        if body.suffix:
            raise ApiError(400, "suffix: filling in the middle is not supported", param="suffix")
        if body.best_of is not None and body.best_of != (body.n or 1):
            raise ApiError(400, "best_of above n is not supported", param="best_of")
        served, settings = server.pool.find(body.model), await _settings(server, body)
        keep_alive = keep_alive_seconds(body.ttl if body.keep_alive is None else body.keep_alive)
        active: list[ActiveRequest] = []
        try:
            for prompt in prompts:
                one = await server.ask(http, body.model, prompt, settings, keep_alive=keep_alive, salt=body.cache_salt or "")
                active.append(one)
        except BaseException:
            for one in active:
                await one.close()
            raise
        head: Json = {"id": new_id("cmpl-"), "object": "text_completion", "created": active[0].created, "model": served.name}
        if body.stream:
            return events(
                _chunks(active, head, body),
                lambda error: event(body_of(error, "openai")),
                ping_seconds=server.settings.ping_seconds,
                headers=body.ignored(),
            )
        try:
            results = [await one.finished(http) for one in active]
        finally:
            for one in active:
                await one.close()
        flat = [(some[0].prompt, result) for some in results for result in some]
        choices = (_choice(index, prompt, result, active[0].tokenizer, body) for index, (prompt, result) in enumerate(flat))
        head["usage"] = _total([usage(some) for some in results])
        return await long_list(head, "choices", choices, body.ignored())

    return routes


async def _settings(server: Server, body: CompletionBody) -> Json:
    prompt_logprobs = body.logprobs if body.echo else None
    max_tokens = MAX_TOKENS if body.max_tokens is None else body.max_tokens
    if max_tokens == 0 and prompt_logprobs is None:
        raise ApiError(400, "max_tokens is 0, which needs echo and logprobs", param="max_tokens")
    return {
        "max_tokens": max_tokens,
        "min_tokens": body.min_tokens or 0,
        "stop": body.stop or (),
        "n": body.n or 1,
        "logprobs": body.logprobs,
        "prompt_logprobs": prompt_logprobs,
        "grammar": body.wanted_grammar(),
        "ignore_end": bool(body.ignore_eos),
        "stop_ids": body.stop_token_ids or (),
        "context": body.num_ctx,
        "logit_bias": body.biases(),
        **body.sampling(await server.recommended(body.model), DEFAULTS),
    }


def _choice(index: int, prompt: Sequence[Token], result: Generation, tokenizer: Tokenizer, body: CompletionBody) -> Json:
    echoed = tokenizer.decode(result.prompt_ids) if body.echo else ""
    tokens = [*(prompt if body.echo else ()), *result.tokens]
    return {
        "index": index,
        "text": echoed + result.text,
        "logprobs": completion_logprobs(tokens, tokenizer, Offsets()) if body.logprobs is not None else None,
        "finish_reason": finish_reason(result.finish_reason, False),
    }


class Offsets:
    """The places of tokens in a text, in characters: of the bytes of one character all have the place where it begins."""

    def __init__(self) -> None:
        self.length = 0
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, data: bytes) -> int:
        """The place of the next token, whose bytes are `data`."""
        place = self.length
        self.length += len(self.decoder.decode(data))
        return place


def completion_logprobs(tokens: Sequence[Token], tokenizer: Tokenizer, offsets: Offsets) -> Json:
    """Log probabilities in the format of completions; the first token of a prompt has none. `offsets` are those of the tokens
    before."""
    return {
        "tokens": [_text(token.id, tokenizer) for token in tokens],
        "token_logprobs": [None if token.logprob is None else finite(token.logprob) for token in tokens],
        "top_logprobs": [
            None if token.logprob is None else {_text(id, tokenizer): finite(logprob) for id, logprob in _with_own(token)}
            for token in tokens
        ],
        "text_offset": [offsets.push(tokenizer.vocabulary.bytes_of(token.id)) for token in tokens],
    }


def _with_own(token: Token) -> list[tuple[int, float]]:
    """The most probable tokens, and the chosen one if it is not among them."""
    own = [] if token.logprob is None or any(id == token.id for id, _ in token.top) else [(token.id, token.logprob)]
    return [*token.top, *own]


def _text(id: int, tokenizer: Tokenizer) -> str:
    return tokenizer.vocabulary.bytes_of(id).decode("utf-8", "replace")


async def _chunks(active: Sequence[ActiveRequest], head: Mapping[str, Any], body: CompletionBody) -> AsyncGenerator[bytes]:
    unused = {"usage": None} if body.usage_in_stream else {}
    try:
        for number, one in enumerate(active):
            count = one.stream.request.n
            first, offsets, echoed = number * count, [Offsets() for _ in range(count)], [not body.echo] * count
            prompt: Sequence[Token] = ()
            async with aclosing(one.deltas()) as deltas:
                async for delta in deltas:
                    text = "".join(part.text for part in delta.parts if isinstance(part, Said))
                    tokens, prompt = list(delta.tokens), delta.prompt or prompt
                    if not echoed[delta.index]:
                        text, tokens = one.tokenizer.decode(one.stream.request.prompt) + text, [*prompt, *tokens]
                        echoed[delta.index] = True
                    if not (text or tokens or delta.finish):
                        continue
                    logprobs = None
                    if body.logprobs is not None:
                        logprobs = completion_logprobs(tokens, one.tokenizer, offsets[delta.index])
                    choice = {
                        "index": first + delta.index,
                        "text": text,
                        "logprobs": logprobs,
                        "finish_reason": finish_reason(delta.finish, False) if delta.finish else None,
                    }
                    yield event({**head, "choices": [choice], **unused})
        if body.usage_in_stream:
            yield event({**head, "choices": [], "usage": _total([usage(one.stream.results) for one in active])})
        yield event("[DONE]")
    finally:
        for one in active:
            await one.close()


def _total(usages: Sequence[Json]) -> Json:
    """The `usage` of several prompts together."""
    total = {key: sum(one[key] for one in usages) for key in ("prompt_tokens", "completion_tokens", "total_tokens")}
    cached = sum(one["prompt_tokens_details"]["cached_tokens"] for one in usages)
    return {**total, "prompt_tokens_details": {"cached_tokens": cached}}
