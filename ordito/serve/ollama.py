"""Ollama's API, second part: chat, generation and embeddings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from ordito.engine.grammar import Grammar
from ordito.engine.stream import Generation
from ordito.serve.anthropic import arguments_of
from ordito.serve.asking import ActiveRequest, Server
from ordito.serve.errors import ApiError, Json
from ordito.serve.fields import MAX_TOKENS, Body, Name, SamplingFields, Stops, Text, Texts, keep_alive_seconds
from ordito.serve.openai_chat import token_logprobs
from ordito.serve.streaming import events, line, long_list
from ordito.serve.tools import offered_tools, tool_settings
from ordito.serve.vectors import embedded
from ordito.text.answers import Arguments, Call, Said, Thought

DEFAULTS: Json = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
"""Ollama's defaults, used where neither the request nor generation_config.json sets a value."""


class Options(SamplingFields):
    """The field `options`. Those about memory and devices (num_gpu, num_thread, ...) are unknown here, and ignored."""

    num_ctx: int | None = Field(default=None, ge=0, le=MAX_TOKENS)
    num_predict: int | None = Field(default=None, ge=-2, le=MAX_TOKENS)
    stop: Stops | None = None
    thinking_token_budget: int | None = Field(default=None, ge=0, le=MAX_TOKENS)


class OllamaBody(Body):
    """The fields that chat and generation share. Null means not set, which Go's clients send."""

    model: Name
    stream: bool | None = None
    options: Options | None = None
    format: str | dict[str, Any] | None = None
    keep_alive: Any = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)


class ChatBody(OllamaBody):
    """POST /api/chat."""

    messages: list[dict[str, Any]] | None = Field(default=None, max_length=65536)
    tools: list[dict[str, Any]] | None = Field(default=None, max_length=1024)


class GenerateBody(OllamaBody):
    """POST /api/generate."""

    prompt: Text | None = None
    system: Text | None = None
    raw: bool | None = None
    suffix: Text | None = None
    template: Text | None = None
    images: list[str] | None = None


class EmbedBody(Body):
    """POST /api/embed."""

    model: Name
    input: Text | Texts | None = None
    truncate: bool | None = None
    dimensions: int | None = Field(default=None, ge=1, le=1 << 20)
    keep_alive: Any = None


class EmbeddingsBody(Body):
    """POST /api/embeddings, the older form of /api/embed."""

    model: Name
    prompt: Text
    keep_alive: Any = None


def ollama_routes(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/api", tags=["Ollama"])

    async def answered(body: OllamaBody, http: HttpRequest, prompt: Any, settings: Json, piece: Piece) -> Response:
        active = await server.ask(http, body.model, prompt, settings, keep_alive=keep_alive_seconds(body.keep_alive))
        name = body.model
        if body.stream is not False:
            return events(
                _lines(active, name, piece, body),
                lambda error: line({"error": error.message}),
                ping=None,
                media_type="application/x-ndjson",
                headers=body.ignored(),
            )
        result = (await active.finished(http))[0]
        said = piece(result.text, result.thinking, whole_calls(result.calls))

        def whole() -> Response:
            logprobs = {"logprobs": token_logprobs(result.tokens, active.tokenizer)} if body.logprobs else {}
            return JSONResponse({**_head(name), **said, **logprobs, **_end(active, result)}, headers=body.ignored())

        return await asyncio.to_thread(whole)

    @routes.post("/chat")
    async def chat(body: ChatBody, http: HttpRequest) -> Response:
        """Answer a conversation; without messages, load or unload the model."""
        if not body.messages:
            return await _loaded(server, body, {"message": {"role": "assistant", "content": ""}})
        tools, chosen = offered_tools(body.tools, None)
        last = body.messages[-1]
        settings = await _settings(server, body)
        settings |= tool_settings(tools, chosen, settings["grammar"])
        settings["continue_final_message"] = last.get("role") == "assistant" and not last.get("tool_calls")
        return await answered(body, http, _messages(body.messages), settings, _chat_piece)

    @routes.post("/generate")
    async def generate(body: GenerateBody, http: HttpRequest) -> Response:
        """Answer one prompt, or continue it if it is `raw`; without a prompt, load or unload the model."""
        if not body.prompt:
            return await _loaded(server, body, {"response": ""})
        if body.images:
            raise ApiError(400, "images are not supported")
        if body.suffix or body.template:
            raise ApiError(400, "suffix and template are not supported")
        settings = await _settings(server, body)
        async with server.pool.use(body.model) as served:
            talks = not body.raw and served.ready[0].talks
        prompt: Any = body.prompt
        if talks:
            opening = [{"role": "system", "content": body.system}] if body.system else []
            prompt = [*opening, {"role": "user", "content": body.prompt}]
        else:
            settings.pop("thinking")
        return await answered(body, http, prompt, settings, _generate_piece)

    @routes.post("/embed")
    async def embed(body: EmbedBody, http: HttpRequest) -> Response:
        """One embedding vector for each text; without one, the model is loaded."""
        begin = time.perf_counter_ns()
        given = body.input
        if not given:
            async with server.pool.use(body.model, keep_alive_seconds(body.keep_alive)):
                pass
            return JSONResponse({"model": body.model, "embeddings": []})
        texts = [given] if isinstance(given, str) else given
        truncate = body.truncate is not False  # Ollama's default is true
        vectors, tokens = await embedded(
            server, http, body.model, texts, None, body.dimensions, body.keep_alive, truncate=truncate
        )
        took = {"total_duration": time.perf_counter_ns() - begin, "load_duration": 0, "prompt_eval_count": tokens}
        return await long_list({"model": body.model, **took}, "embeddings", (vector.tolist() for vector in vectors))

    @routes.post("/embeddings")
    async def embeddings(body: EmbeddingsBody, http: HttpRequest) -> Json:
        """The embedding vector of one text."""
        vectors, _ = await embedded(server, http, body.model, [body.prompt], keep_alive=body.keep_alive, truncate=True)
        return {"embedding": vectors[0].tolist()}

    return routes


Piece = Callable[[str, str, list[Json]], Json]
"""Text, thinking and tool calls -> the fields of a streamed line or a whole answer that hold them."""


def _chat_piece(text: str, thinking: str, calls: list[Json]) -> Json:
    more = {**({"thinking": thinking} if thinking else {}), **({"tool_calls": calls} if calls else {})}
    return {"message": {"role": "assistant", "content": text, **more}}


def _generate_piece(text: str, thinking: str, calls: list[Json]) -> Json:
    return {"response": text, **({"thinking": thinking} if thinking else {})}


async def _settings(server: Server, body: OllamaBody) -> Json:
    options = body.options or Options()
    limit = options.num_predict
    return {
        "max_tokens": limit if limit is not None and limit > 0 else None,
        "stop": options.stop or (),
        "context": options.num_ctx or None,
        "grammar": _grammar(body.format),
        "thinking": body.think if body.think != "max" else "high",
        "thinking_budget": options.thinking_token_budget,
        "logprobs": (body.top_logprobs or 0) if body.logprobs else None,
        **options.sampling(await server.recommended(body.model), DEFAULTS),
    }


def _grammar(wanted: str | dict[str, Any] | None) -> Grammar | None:
    if not wanted:
        return None
    if wanted == "json":
        return Grammar("json_object")
    if isinstance(wanted, dict):
        return Grammar.json_schema(wanted)
    raise ApiError(400, f"format is {wanted!r:.100}, expected json or a JSON schema")


def _messages(messages: list[dict[str, Any]]) -> list[Json]:
    """Messages for the chat template from Ollama's, in which tool results name their tool, and tool calls have no ids."""
    made: list[Json] = []
    for place, message in enumerate(messages):
        if message.get("images"):
            raise ApiError(400, f"messages[{place}]: images are not supported")
        one = {key: value for key, value in message.items() if key not in ("images", "tool_name") and value is not None}
        if message.get("role") == "tool":
            one |= {"name": message.get("tool_name") or message.get("name") or ""}
        made.append({"content": "", **one})
    return made


def whole_calls(calls: Iterable[tuple[str, str, str]]) -> list[Json]:
    """Tool calls as Ollama has them, with parsed arguments; a call that the answer was cut off in is left out."""
    return [
        {"id": id, "function": {"name": name, "arguments": arguments}}
        for id, name, text in calls
        if (arguments := arguments_of(text, None)) is not None
    ]


def _head(model: str) -> Json:
    return {"model": model, "created_at": now(), "done": False}


def now() -> str:
    """The time in RFC 3339 with nanoseconds, as Go's JSON has it."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def _end(active: ActiveRequest, result: Generation) -> Json:
    """The last fields of an answer: why it ended, its tokens, and the durations in nanoseconds."""
    prefill, decode = int(1e9 * (result.prompt_seconds - result.queued)), int(1e9 * result.seconds)
    return {
        "done": True,
        "done_reason": "stop" if result.finish_reason == "stop" else "length",
        "total_duration": int(1e9 * result.queued) + prefill + decode,
        "load_duration": 0,
        "prompt_eval_count": result.prompt_tokens,
        "prompt_eval_duration": max(1, prefill),
        "eval_count": len(result.token_ids),
        "eval_duration": max(1, decode),
    }


async def _lines(active: ActiveRequest, name: str, piece: Piece, body: OllamaBody) -> AsyncGenerator[bytes]:
    """The answer as lines of JSON; a tool call is sent when it is whole."""
    open_calls: dict[int, tuple[Call, list[str]]] = {}

    def finished_calls(last_too: bool) -> list[Json]:
        done = list(open_calls) if last_too else list(open_calls)[:-1]
        return whole_calls((call.id, call.name, "".join(texts)) for call, texts in map(open_calls.pop, done))

    async with aclosing(active.deltas()) as deltas:
        async for delta in deltas:
            text = thinking = ""
            for part in delta.parts:
                match part:
                    case Said(said):
                        text += said
                    case Thought(thought):
                        thinking += thought
                    case Call(index):
                        open_calls[index] = (part, [])
                    case Arguments(index, arguments):
                        open_calls[index][1].append(arguments)
            calls = finished_calls(bool(delta.finish) or bool(text))
            logprobs = {"logprobs": token_logprobs(delta.tokens, active.tokenizer)} if body.logprobs and delta.tokens else {}
            if text or thinking or calls or logprobs:
                yield line({**_head(name), **piece(text, thinking, calls), **logprobs})
    yield line({**_head(name), **piece("", "", []), **_end(active, active.stream.result)})


async def _loaded(server: Server, body: OllamaBody, piece: Mapping[str, Any]) -> Response:
    """Load a model, or unload it if `keep_alive` is 0."""
    seconds = keep_alive_seconds(body.keep_alive)
    if seconds == 0:
        await server.pool.unload(server.pool.find(body.model))
    else:
        async with server.pool.use(body.model, seconds):
            pass
    reason = "unload" if seconds == 0 else "load"
    whole = {**_head(body.model), **piece, "done": True, "done_reason": reason}
    if body.stream is not False:
        return Response(line(whole), media_type="application/x-ndjson")
    return JSONResponse(whole)
