"""Anthropic's Messages API."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from ordito.engine.stream import Generation
from ordito.serve.asking import ActiveRequest, Server
from ordito.serve.errors import ApiError, Json, body_of, new_id
from ordito.serve.fields import MAX_TOKENS, Name, SamplingFields, Stops, grammar_of_format
from ordito.serve.openai_chat import DEFAULTS
from ordito.serve.streaming import event, events
from ordito.serve.tools import offered_tools, tool_settings
from ordito.text.answers import Arguments, Call, Said, Thought

_PROMPT_SETTINGS = ("tools", "tools_in_words", "thinking", "continue_final_message")
_PING = event({"type": "ping"}, "ping")


class PromptBody(SamplingFields):
    """The fields of a conversation, and the body of POST /v1/messages/count_tokens."""

    model: Name = ""
    messages: list[dict[str, Any]] = Field(min_length=1, max_length=65536)
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = Field(default=None, max_length=1024)
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None


class MessagesBody(PromptBody):
    """POST /v1/messages."""

    max_tokens: int = Field(ge=1, le=MAX_TOKENS)
    stop_sequences: Stops | None = None
    stream: bool | None = None
    metadata: dict[str, Any] | None = None


def anthropic_routes(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["Anthropic"])

    @routes.post("/v1/messages")
    async def messages(body: MessagesBody, http: HttpRequest) -> Response:
        """Answer a conversation."""
        served = server.pool.find(body.model)
        settings = {
            **_prompt_settings(body),
            "max_tokens": body.max_tokens,
            "stop": body.stop_sequences or (),
            **body.sampling(await server.recommended(body.model), DEFAULTS),
        }
        active = await server.ask(http, body.model, conversation(body.messages, body.system), settings)
        head = {"id": new_id("msg_"), "type": "message", "role": "assistant", "model": served.name}
        if body.stream:
            return events(
                _events(active, head),
                lambda error: event(body_of(error, "anthropic", http.state.request_id), "error"),
                ping=_PING,
                ping_seconds=server.settings.ping_seconds,
                headers=body.ignored(),
            )
        result = (await active.finished(http))[0]
        reason = {"stop_reason": stop_reason(result), "stop_sequence": result.stop}
        whole = {**head, "content": blocks(result), **reason, "usage": usage(result)}
        return JSONResponse(whole, headers=body.ignored())

    @routes.post("/v1/messages/count_tokens")
    async def count_tokens(body: PromptBody, http: HttpRequest) -> Json:
        """How many tokens a conversation has."""
        async with server.pool.use(body.model) as served:
            settings = {key: value for key, value in _prompt_settings(body).items() if key in _PROMPT_SETTINGS}
            prompt = conversation(body.messages, body.system)
            counted = await server.counted(partial(served.ready[0].prompted, prompt, **settings))
            return {"input_tokens": len(counted.ids)}

    return routes


def _prompt_settings(body: PromptBody) -> Json:
    """The settings of `Model.prepare` that the fields of a conversation give. Raises `ApiError` for a field that is wrong."""
    tools = [
        {
            "type": "function",
            "function": {
                "name": tool.get("name"),
                "description": tool.get("description") or "",
                "parameters": tool.get("input_schema") or {"type": "object"},
            },
        }
        for tool in body.tools or ()
        if tool.get("type", "custom") == "custom"
    ]
    choice: Any = (body.tool_choice or {}).get("type", "auto")
    if choice not in ("auto", "any", "tool", "none"):
        raise ApiError(400, f"tool_choice: type is {choice!r:.100}, expected auto, any, tool or none", param="tool_choice")
    if choice == "tool":
        choice = {"type": "function", "function": {"name": str((body.tool_choice or {}).get("name"))}}
    listed, chosen = offered_tools(tools, "required" if choice == "any" else choice)
    wanted = body.thinking or {}
    budget = wanted.get("budget_tokens")
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int) or not 0 <= budget <= MAX_TOKENS):
        raise ApiError(400, f"thinking.budget_tokens is {budget!r:.50}, expected a whole number", param="thinking")
    thinking = {"enabled": True, "adaptive": None, "disabled": False}.get(str(wanted.get("type")))
    one_call = (body.tool_choice or {}).get("disable_parallel_tool_use") is True
    return {
        "thinking": thinking,
        "thinking_budget": budget,
        "one_call": one_call,
        "continue_final_message": body.messages[-1].get("role") == "assistant",
        **tool_settings(listed, chosen, grammar_of_format((body.output_config or {}).get("format"), "output_config.format")),
    }


def conversation(messages: Sequence[Mapping[str, Any]], system: str | Sequence[Mapping[str, Any]] | None) -> list[Json]:
    """Messages for the chat template from Anthropic's: blocks become texts, tool calls and tool results; successive messages of
    one role are merged. Raises `ApiError` for blocks that are not supported."""
    opening = system if isinstance(system, str) else "\n\n".join(_text(block, "system") for block in system or ())
    made: list[Json] = [{"role": "system", "content": opening}] if opening else []
    for place, message in enumerate(messages):
        role, where = message.get("role"), f"messages[{place}]"
        if role not in ("user", "assistant", "system"):
            raise ApiError(400, f"{where}: role must be user or assistant, got {role!r:.50}", param="messages")
        for one in _message(role, message.get("content"), where):
            last = made[-1] if made else None
            if last and last["role"] == one["role"] != "tool" and not last.get("tool_calls"):
                merged = "\n\n".join(part for part in (last["content"], one["content"]) if part)
                made[-1] = {**last, **one, "content": merged}
            else:
                made.append(one)
    return made


def _message(role: str, content: Any, where: str) -> list[Json]:
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise ApiError(400, f"{where}: content must be a text or a list of blocks", param="messages")
    texts, thoughts, calls, results = [], [], [], []
    for block in content:
        match block.get("type"):
            case "text":
                texts.append(_text(block, where))
            case "thinking":
                thoughts.append(str(block.get("thinking") or ""))
            case "redacted_thinking":
                pass
            case "tool_use":
                function = {"name": block.get("name"), "arguments": block.get("input") or {}}
                calls.append({"id": str(block.get("id")), "type": "function", "function": function})
            case "tool_result":
                inner = block.get("content") or []
                if not isinstance(inner, str | list):
                    raise ApiError(400, f"{where}: the content of a tool_result must be a text or blocks", param="messages")
                text = inner if isinstance(inner, str) else "\n".join(_text(one, where) for one in inner)
                results.append({"role": "tool", "tool_call_id": str(block.get("tool_use_id")), "content": text})
            case kind:
                raise ApiError(400, f"{where}: blocks of type {kind!r:.50} are not supported, only text", param="messages")
    text = "\n\n".join(texts)
    said: Json = {"role": role, "content": text}
    if thoughts:
        said["reasoning_content"] = "\n".join(thoughts)
    if calls:
        said["tool_calls"] = calls
    return [*results, *([said] if text or calls or not results else [])]


def _text(block: Any, where: str) -> str:
    if not isinstance(block, dict) or block.get("type") != "text" or not isinstance(block.get("text"), str):
        kind = block.get("type") if isinstance(block, dict) else type(block).__name__
        raise ApiError(400, f"{where}: expected a block of text, got {kind!r:.50}", param="messages")
    return block["text"]


def blocks(result: Generation) -> list[Json]:
    """An answer as content blocks."""
    made: list[Json] = []
    if result.thinking:
        made.append({"type": "thinking", "thinking": result.thinking, "signature": "ordito"})
    if result.text or not (made or result.calls):
        made.append({"type": "text", "text": result.text})
    for id, name, arguments in result.calls:
        made.append({"type": "tool_use", "id": f"toolu_{id}", "name": name, "input": arguments_of(arguments, {})})
    return made


def arguments_of(text: str, default: Any) -> Any:
    """The arguments of a tool call, parsed from JSON; `default` where the answer ended in the middle of them."""
    try:
        return json.loads(text)
    except ValueError:
        return default


def stop_reason(result: Generation) -> str:
    """Anthropic's `stop_reason` of an answer."""
    if result.finish_reason != "stop":
        return "max_tokens"
    return "tool_use" if result.calls else "stop_sequence" if result.stop is not None else "end_turn"


def usage(result: Generation) -> Json:
    """The `usage` of an answer; tokens from the prefix cache are counted apart from the other input."""
    return {
        "input_tokens": result.prompt_tokens - result.cached_tokens,
        "output_tokens": len(result.token_ids),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": result.cached_tokens,
    }


async def _events(active: ActiveRequest, head: Mapping[str, Any]) -> AsyncGenerator[bytes]:
    """The answer as Anthropic's server-sent events: one content block at a time, each with a start and a stop event."""
    start = {**head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage(active.stream.result)}
    yield event({"type": "message_start", "message": start}, "message_start")
    kind, index = "", -1

    def opened(block: Json) -> bytes:
        return event({"type": "content_block_start", "index": index, "content_block": block}, "content_block_start")

    def changed(delta: Json) -> bytes:
        return event({"type": "content_block_delta", "index": index, "delta": delta}, "content_block_delta")

    def closed() -> bytes:
        signed = changed({"type": "signature_delta", "signature": "ordito"}) if kind == "thinking" else b""
        return signed + event({"type": "content_block_stop", "index": index}, "content_block_stop") if kind else b""

    async with aclosing(active.deltas()) as deltas:
        async for delta in deltas:
            for part in delta.parts:
                wanted = {Said: "text", Thought: "thinking"}.get(type(part), "tool_use")
                if wanted != kind or isinstance(part, Call):
                    if kind:
                        yield closed()
                    kind, index = wanted, index + 1
                    match part:
                        case Said():
                            yield opened({"type": "text", "text": ""})
                        case Thought():
                            yield opened({"type": "thinking", "thinking": "", "signature": ""})
                        case Call(_, id, name):
                            yield opened({"type": "tool_use", "id": f"toolu_{id}", "name": name, "input": {}})
                match part:
                    case Said(text):
                        yield changed({"type": "text_delta", "text": text})
                    case Thought(text):
                        yield changed({"type": "thinking_delta", "thinking": text})
                    case Arguments(_, text):
                        yield changed({"type": "input_json_delta", "partial_json": text})
    if not kind:
        kind, index = "text", 0
        yield opened({"type": "text", "text": ""})
    yield closed()
    result = active.stream.result
    ended = {"stop_reason": stop_reason(result), "stop_sequence": result.stop}
    yield event({"type": "message_delta", "delta": ended, "usage": usage(result)}, "message_delta")
    yield event({"type": "message_stop"}, "message_stop")
