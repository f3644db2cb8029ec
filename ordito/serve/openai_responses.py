"""OpenAI's Responses API. No response is stored: each request has to send its whole conversation."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from itertools import count
from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from ordito.engine.stream import Generation
from ordito.serve.asking import ActiveRequest, Server
from ordito.serve.errors import ApiError, Json, new_id
from ordito.serve.fields import MAX_TOKENS, Name, SamplingFields, Text, grammar_of_format
from ordito.serve.openai_chat import DEFAULTS, THINKS
from ordito.serve.streaming import event, events
from ordito.serve.tools import offered_tools, tool_settings
from ordito.text.answers import Arguments, Call, Said, Thought


class ResponseBody(SamplingFields):
    """POST /v1/responses."""

    model: Name = ""
    input: Text | list[dict[str, Any]]
    instructions: Text | None = None
    tools: list[dict[str, Any]] | None = Field(default=None, max_length=1024)
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    max_output_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    reasoning: dict[str, Any] | None = None
    thinking_token_budget: int | None = Field(default=None, ge=0, le=MAX_TOKENS)
    text: dict[str, Any] | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    truncation: str | None = None
    metadata: dict[str, Any] | None = None


def response_routes(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["OpenAI"])

    @routes.post("/v1/responses")
    @routes.post("/responses", include_in_schema=False)
    async def responses(body: ResponseBody, http: HttpRequest) -> Response:
        """Answer a conversation."""
        if body.previous_response_id:
            raise ApiError(
                400,
                "previous_response_id: responses are not stored here, send the whole conversation",
                param="previous_response_id",
            )
        served = server.pool.find(body.model)
        effort = (body.reasoning or {}).get("effort")
        nested = [_nested(tool) for tool in body.tools or () if tool.get("type") == "function"]
        choice = body.tool_choice
        if isinstance(choice, dict) and choice.get("type") == "function":
            choice = {"type": "function", "function": {"name": str(choice.get("name"))}}
        tools, chosen = offered_tools(nested, choice)
        settings = {
            "max_tokens": body.max_output_tokens,
            "thinking": THINKS.get(effort) if isinstance(effort, str) else None,
            "thinking_budget": body.thinking_token_budget,
            "one_call": body.parallel_tool_calls is False,
            **tool_settings(tools, chosen, grammar_of_format((body.text or {}).get("format"), "text.format")),
            **body.sampling(await server.recommended(body.model), DEFAULTS),
        }
        active = await server.ask(http, body.model, conversation(body.input, body.instructions), settings)
        head = _head(body, served.name, active.created)
        if body.stream:
            numbers = count()
            return events(
                _events(active, head, numbers),
                lambda error: _sent({"type": "response.failed", "response": _failed(head, error)}, numbers),
                ping_seconds=server.settings.ping_seconds,
                headers=body.ignored(),
            )
        result = (await active.finished(http))[0]
        return JSONResponse(_whole(head, result, _items(result)), headers=body.ignored())

    return routes


def _nested(tool: Mapping[str, Any]) -> Json:
    """A tool in the format of chat completions, which nest its fields in `function`; those of responses are flat."""
    if isinstance(tool.get("function"), dict):
        return dict(tool)
    function = {key: tool[key] for key in ("name", "description", "parameters") if tool.get(key) is not None}
    return {"type": "function", "function": function}


def conversation(given: str | list[dict[str, Any]], instructions: str | None) -> list[Json]:
    """Messages for the chat template from input items. Raises `ApiError` for items that are not supported."""
    made: list[Json] = [{"role": "system", "content": instructions}] if instructions else []
    if isinstance(given, str):
        return [*made, {"role": "user", "content": given}]
    for place, item in enumerate(given):
        where, last = f"input[{place}]", made[-1] if made else {}
        match item.get("type", "message"):
            case "message":
                made.append({"role": item.get("role"), "content": _content(item.get("content"), where)})
            case "function_call":
                function = {"name": item.get("name"), "arguments": item.get("arguments") or "{}"}
                call = {"id": str(item.get("call_id")), "type": "function", "function": function}
                if last.get("role") == "assistant":
                    made[-1] = {**last, "tool_calls": [*last.get("tool_calls", []), call]}
                else:
                    made.append({"role": "assistant", "content": "", "tool_calls": [call]})
            case "function_call_output":
                output = _content(item.get("output"), where)
                made.append({"role": "tool", "tool_call_id": str(item.get("call_id")), "content": output})
            case "reasoning":
                pass  # dropped: the message or call that it led to is an item of its own
            case kind:
                raise ApiError(400, f"{where}: items of type {kind!r:.50} are not supported", param="input")
    if not made:
        raise ApiError(400, "input is empty", param="input")
    return made


def _content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ApiError(400, f"{where}: content must be a text or a list of parts", param="input")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind not in ("input_text", "output_text", "text") or not isinstance(part.get("text"), str):
            raise ApiError(400, f"{where}: parts of type {kind!r:.50} are not supported, only text", param="input")
        texts.append(part["text"])
    return "".join(texts)


def _head(body: ResponseBody, model: str, created: int) -> Json:
    return {
        "id": new_id("resp_"),
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "model": model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": (body.reasoning or {}).get("effort"), "summary": None},
        "store": False,
        "temperature": body.temperature,
        "text": body.text or {"format": {"type": "text"}},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_p": body.top_p,
        "truncation": "disabled",
        "usage": None,
        "metadata": body.metadata or {},
    }


def _whole(head: Json, result: Generation, output: list[Json]) -> Json:
    """The finished response."""
    cut = result.finish_reason != "stop"
    made, prompt = len(result.token_ids), result.prompt_tokens
    return {
        **head,
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": output,
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": result.cached_tokens},
            "output_tokens": made,
            "output_tokens_details": {"reasoning_tokens": result.thought_tokens},
            "total_tokens": prompt + made,
        },
    }


def _message(id: str, text: str, status: str) -> Json:
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}] if status != "in_progress" else []
    return {"id": id, "type": "message", "role": "assistant", "status": status, "content": content}


def _reasoning(id: str, text: str) -> Json:
    return {"id": id, "type": "reasoning", "summary": [{"type": "summary_text", "text": text}] if text else []}


def _call(id: str, call_id: str, name: str, arguments: str, status: str) -> Json:
    return {"id": id, "type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, "status": status}


def _items(result: Generation) -> list[Json]:
    made = []
    said, *called = _statuses(result, 1 + len(result.calls))
    if result.thinking:
        made.append(_reasoning(new_id("rs_"), result.thinking))
    if result.text or not (made or result.calls):
        made.append(_message(new_id("msg_"), result.text, said))
    for status, (id, name, arguments) in zip(called, result.calls, strict=True):
        made.append(_call(new_id("fc_"), f"call_{id}", name, arguments, status))
    return made


def _statuses(result: Generation, count: int) -> list[str]:
    """The `status` of each output item: the last one is incomplete if the answer was cut off."""
    return ["completed"] * (count - 1) + ["completed" if result.finish_reason == "stop" else "incomplete"]


class _Item:
    """An output item of a streamed response, and the events of its start, of each piece of text and of its end."""

    def __init__(self, part: Said | Thought | Call, index: int) -> None:
        self.part, self.index, self.text = part, index, ""
        kind = {Said: "msg_", Thought: "rs_"}.get(type(part), "fc_")
        self.id = new_id(kind)

    def _at(self, type: str, **more: Any) -> Json:
        return {"type": type, "item_id": self.id, "output_index": self.index, **more}

    def item(self, status: str) -> Json:
        """The item with the text that it has so far."""
        match self.part:
            case Said():
                return _message(self.id, self.text, status)
            case Thought():
                return _reasoning(self.id, self.text)
            case Call(_, id, name):
                return _call(self.id, f"call_{id}", name, self.text, status)

    def opens(self) -> list[Json]:
        """The events of its start."""
        added = [{"type": "response.output_item.added", "output_index": self.index, "item": self.item("in_progress")}]
        if isinstance(self.part, Said):
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            added.append(self._at("response.content_part.added", content_index=0, part=part))
        elif isinstance(self.part, Thought):
            part = {"type": "summary_text", "text": ""}
            added.append(self._at("response.reasoning_summary_part.added", summary_index=0, part=part))
        return added

    def grows(self, text: str) -> Json:
        """Add text; returns its delta event."""
        self.text += text
        match self.part:
            case Said():
                return self._at("response.output_text.delta", content_index=0, delta=text, logprobs=[])
            case Thought():
                return self._at("response.reasoning_summary_text.delta", summary_index=0, delta=text)
        return self._at("response.function_call_arguments.delta", delta=text)

    def closes(self, status: str = "completed") -> list[Json]:
        """The events of its end."""
        match self.part:
            case Said():
                part = {"type": "output_text", "text": self.text, "annotations": [], "logprobs": []}
                ends = [
                    self._at("response.output_text.done", content_index=0, text=self.text, logprobs=[]),
                    self._at("response.content_part.done", content_index=0, part=part),
                ]
            case Thought():
                part = {"type": "summary_text", "text": self.text}
                ends = [
                    self._at("response.reasoning_summary_text.done", summary_index=0, text=self.text),
                    self._at("response.reasoning_summary_part.done", summary_index=0, part=part),
                ]
            case Call(_, _, name):
                ends = [self._at("response.function_call_arguments.done", name=name, arguments=self.text)]
        return [*ends, {"type": "response.output_item.done", "output_index": self.index, "item": self.item(status)}]


def _sent(data: Json, numbers: Iterator[int]) -> bytes:
    return event({**data, "sequence_number": next(numbers)}, data["type"])


def _failed(head: Json, error: ApiError) -> Json:
    """The response after an error in the middle of the stream."""
    code = "server_error" if error.status >= 500 else "invalid_prompt"
    return {**head, "status": "failed", "error": {"code": code, "message": error.message}}


async def _events(active: ActiveRequest, head: Json, numbers: Iterator[int]) -> AsyncGenerator[bytes]:
    def sent(data: Json) -> bytes:
        return _sent(data, numbers)

    yield sent({"type": "response.created", "response": head})
    yield sent({"type": "response.in_progress", "response": head})
    items: list[_Item] = []
    async with aclosing(active.deltas()) as deltas:
        async for delta in deltas:
            for part in delta.parts:
                if not isinstance(part, Arguments) and (
                    isinstance(part, Call) or not items or type(items[-1].part) is not type(part)
                ):
                    for one in items[-1].closes() if items else ():
                        yield sent(one)
                    items.append(_Item(part, len(items)))
                    for one in items[-1].opens():
                        yield sent(one)
                if not isinstance(part, Call):
                    yield sent(items[-1].grows(part.text))
    if not items:
        items.append(_Item(Said(""), 0))
        for one in items[-1].opens():
            yield sent(one)
    result = active.stream.result
    statuses = _statuses(result, len(items))
    for one in items[-1].closes(statuses[-1]):
        yield sent(one)
    whole = _whole(head, result, [one.item(status) for one, status in zip(items, statuses, strict=True)])
    yield sent({"type": f"response.{whole['status']}", "response": whole})
