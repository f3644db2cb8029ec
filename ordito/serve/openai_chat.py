"""OpenAI's Chat Completions API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from ordito.engine.request import Delta, Token
from ordito.engine.stream import Generation
from ordito.serve.asking import ActiveRequest, Server
from ordito.serve.errors import ApiError, Json, body_of, new_id
from ordito.serve.fields import MAX_TOKENS, OpenFields, keep_alive_seconds
from ordito.serve.streaming import event, events, long_list
from ordito.serve.tools import offered_tools, tool_settings
from ordito.text.answers import Arguments, Call, Part, Said, Thought
from ordito.text.tokenizer import Tokenizer

DEFAULTS: Json = {"temperature": 1.0}
"""OpenAI's defaults, used where neither the request nor generation_config.json sets a value."""
THINKS = {"none": False, "minimal": False, "low": "low", "medium": "medium", "high": "high", "xhigh": "high"}
"""`reasoning_effort` -> the setting `thinking` of `Model.prepare`."""


class ChatBody(OpenFields):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1, max_length=65536)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = Field(default=None, max_length=1024)
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    thinking_token_budget: int | None = Field(default=None, ge=0, le=MAX_TOKENS)
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


def chat_routes(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["OpenAI"])

    @routes.post("/v1/chat/completions")
    @routes.post("/chat/completions", include_in_schema=False)
    async def chat_completions(body: ChatBody, http: HttpRequest) -> Response:
        """Answer a conversation."""
        served = server.pool.find(body.model)
        settings = await chat_settings(server, body)
        active = await server.ask(
            http,
            body.model,
            body.messages,
            settings,
            keep_alive=keep_alive_seconds(body.ttl if body.keep_alive is None else body.keep_alive),
            salt=body.cache_salt or "",
        )
        head = {"id": new_id("chatcmpl-"), "created": active.created, "model": served.name, "system_fingerprint": "ordito"}
        if body.stream:
            return events(
                chunks(active, head, body),
                lambda error: event(body_of(error, "openai")),
                ping_seconds=server.settings.ping_seconds,
                headers=body.ignored(),
            )
        results = await active.finished(http)
        choices = (choice(index, result, active.tokenizer, body) for index, result in enumerate(results))
        whole = head | {"object": "chat.completion", "usage": usage(results)}
        return await long_list(whole, "choices", choices, body.ignored())

    return routes


async def chat_settings(server: Server, body: ChatBody) -> Json:
    """The settings of `Model.prepare` for a chat request. Raises `ApiError` for fields that are wrong or exclude each other."""
    limits = [limit for limit in (body.max_completion_tokens, body.max_tokens) if limit is not None]
    tools, chosen = offered_tools(body.tools, body.tool_choice)
    options = dict(body.chat_template_kwargs or {})
    thinking: Any = None if body.reasoning_effort is None else THINKS[body.reasoning_effort]
    for name in ("enable_thinking", "thinking"):
        if isinstance(options.get(name), bool):
            thinking = options.pop(name)
    for name in options:
        if name in _RESERVED or name.startswith("_"):
            raise ApiError(400, f"chat_template_kwargs: {name[:50]!r} cannot be set", param="chat_template_kwargs")
    if body.add_generation_prompt is not None and body.add_generation_prompt is bool(body.continue_final_message):
        raise ApiError(
            400,
            "continue_final_message continues the last message, add_generation_prompt begins a new one: set one of them",
            param="add_generation_prompt",
        )
    return {
        "max_tokens": min(limits) if limits else None,
        "min_tokens": body.min_tokens or 0,
        "stop": body.stop or (),
        "n": body.n or 1,
        "logprobs": (body.top_logprobs or 0) if body.logprobs else None,
        "thinking": thinking,
        "thinking_budget": body.thinking_token_budget,
        "template_options": options,
        "continue_final_message": bool(body.continue_final_message),
        "ignore_end": bool(body.ignore_eos),
        "stop_ids": body.stop_token_ids or (),
        "context": body.num_ctx,
        "logit_bias": body.biases(),
        "one_call": body.parallel_tool_calls is False,
        **tool_settings(tools, chosen, body.wanted_grammar()),
        **body.sampling(await server.recommended(body.model), DEFAULTS),
    }


_RESERVED = frozenset(
    "messages tools add_generation_prompt continue_final_message bos_token eos_token pad_token unk_token documents "
    "guarded".split()
)
"""Variables of a chat template that a request must not set by `chat_template_kwargs`."""


def choice(index: int, result: Generation, tokenizer: Tokenizer, body: ChatBody) -> Json:
    """One whole answer."""
    message: Json = {"role": "assistant", "content": result.text, "refusal": None}
    if result.thinking:
        message |= {"reasoning_content": result.thinking, "reasoning": result.thinking}
    if result.calls:
        message["tool_calls"] = [
            {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for id, name, arguments in result.calls
        ]
        message["content"] = result.text or None
    logprobs = {"content": token_logprobs(result.tokens, tokenizer), "refusal": None} if body.logprobs else None
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": finish_reason(result.finish_reason, bool(result.calls)),
    }


async def chunks(active: ActiveRequest, head: Mapping[str, Any], body: ChatBody) -> AsyncGenerator[bytes]:
    """The answers as a stream of chunks."""
    head = {**head, "object": "chat.completion.chunk"}
    unused = {"usage": None} if body.usage_in_stream else {}

    def chunk(index: int, delta: Json, finish: str | None = None, logprobs: Any = None) -> bytes:
        choices = [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]
        return event({**head, "choices": choices, **unused})

    count = active.stream.request.n
    called, said = [False] * count, [False] * count
    for index in range(count):
        yield chunk(index, {"role": "assistant", "content": ""})
    async with aclosing(active.deltas()) as deltas:
        async for delta in deltas:
            logprobs = _delta_logprobs(delta, active, body)
            for part in delta.parts:
                called[delta.index] |= isinstance(part, Call)
                said[delta.index] |= not isinstance(part, Thought)
                yield chunk(delta.index, part_delta(part), None, logprobs)
                logprobs = None
            if logprobs is not None:
                yield chunk(delta.index, {}, None, logprobs)
            if delta.finish:
                if not said[delta.index]:  # some clients need content, even if all of the answer was reasoning
                    yield chunk(delta.index, {"content": ""})
                yield chunk(delta.index, {}, finish_reason(delta.finish, called[delta.index]))
    if body.usage_in_stream:
        yield event({**head, "choices": [], "usage": usage(active.stream.results)})
    yield event("[DONE]")


def part_delta(part: Part) -> Json:
    """The `delta` of a chunk for one part of an answer."""
    match part:
        case Said(text):
            return {"content": text}
        case Thought(text):
            return {"reasoning_content": text, "reasoning": text}
        case Call(index, id, name):
            return {"tool_calls": [{"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}]}
        case Arguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def _delta_logprobs(delta: Delta, active: ActiveRequest, body: ChatBody) -> Json | None:
    if not (body.logprobs and delta.tokens):
        return None
    return {"content": token_logprobs(delta.tokens, active.tokenizer), "refusal": None}


def token_logprobs(tokens: Sequence[Token], tokenizer: Tokenizer) -> list[Json]:
    """Log probabilities in the format of chat completions."""

    def named(id: int, logprob: float | None) -> Json:
        raw = tokenizer.vocabulary.bytes_of(id)
        return {"token": raw.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": list(raw)}

    return [{**named(token.id, token.logprob), "top_logprobs": [named(*one) for one in token.top]} for token in tokens]


def finite(logprob: float | None) -> float:
    """A log probability without -inf, which JSON does not have: OpenAI writes -9999.0 for it."""
    return max(logprob if logprob is not None else 0.0, -9999.0)


def finish_reason(reason: str, called: bool) -> str:
    """OpenAI's `finish_reason` of an answer; `called` says whether it has tool calls."""
    if reason == "stop" and called:
        return "tool_calls"
    return "length" if reason == "cancelled" else reason


def usage(results: Sequence[Generation]) -> Json:
    """The `usage` of all answers to a request; the prompt counts once. `cache_missed`: why the prefix cache was not used."""
    prompt, completion = results[0].prompt_tokens, sum(len(result.token_ids) for result in results)
    missed = {"cache_missed": results[0].missed} if results[0].missed else {}
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": results[0].cached_tokens, **missed},
        "completion_tokens_details": {"reasoning_tokens": results[0].thought_tokens},
    }
