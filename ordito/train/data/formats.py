"""Common formats of training records, read as conversations and as texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ordito.errors import OrditoError
from ordito.text.messages import check_messages, check_tools

if TYPE_CHECKING:
    from ordito.train.task import Record

Conversation = tuple[list[dict[str, Any]], list[dict[str, Any]] | None]
"""Messages and tools, both as `ordito.text.messages` checks them."""

_LISTS = ("messages", "conversations", "conversation")
_PAIRS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"))
_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
"""Roles in ShareGPT and in formats derived from it -> our roles."""

_KNOWN = (
    "messages or conversations (a list of {role, content} or of {from, value}), instruction and output (and input), "
    "prompt and completion, question and answer"
)


def conversation_of(record: Record) -> Conversation:
    """A record's messages and tools (None without tools).

    Formats: lists of messages ({role, content}, or ShareGPT's {from, value}); Alpaca's instruction, input and output; pairs of
    prompt and completion, each a string or a list of messages. Further fields `system` and `tools` are used too. Raises
    `OrditoError` for another format, `TemplateError` for invalid messages.
    """
    messages = _system(record) + _messages(record)
    return check_messages(messages), check_tools(_tools(record.get("tools")))


def text_of(record: Record, field: str = "text") -> str:
    """A record's text. Raises `OrditoError` if there is no string under `field`."""
    text = record.get(field)
    if field in record and not isinstance(text, str):
        raise OrditoError(f"has {text!r:.50} under {field!r}, expected a text")
    if not isinstance(text, str):
        raise OrditoError(f"has no text under {field!r}, only {_keys(record)}")
    return text


def _messages(record: Record) -> list[Any]:
    for name in _LISTS:
        found = record.get(name)
        if isinstance(found, list):
            return [_message(message, f"{name}[{i}]") for i, message in enumerate(found)]
    if isinstance(record.get("instruction"), str) and isinstance(record.get("output"), str):
        return _alpaca(record)
    for question, answer in _PAIRS:
        if question in record and answer in record:
            return _side(record[question], "user", question) + _side(record[answer], "assistant", answer)
    raise OrditoError(f"is no conversation: it has {_keys(record)}, expected {_KNOWN}")


def _system(record: Record) -> list[dict[str, Any]]:
    system = record.get("system")
    return [{"role": "system", "content": system}] if isinstance(system, str) and system else []


def _alpaca(record: Record) -> list[dict[str, Any]]:
    """Alpaca's fields; `history`, which LLaMA-Factory adds, has the turns before."""
    asked = [str(record[name]) for name in ("instruction", "input") if record.get(name)]
    turns = [*(record.get("history") or ()), ("\n\n".join(asked), record["output"])]
    made: list[dict[str, Any]] = []
    for i, turn in enumerate(turns):
        if not isinstance(turn, list | tuple) or len(turn) != 2:
            raise OrditoError(f"history[{i}] must be a question and its answer, got {turn!r:.100}")
        made += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return made


def _side(value: Any, role: str, name: str) -> list[Any]:
    """One side of a pair: a string that `role` says, or messages."""
    if isinstance(value, list):
        return [_message(message, f"{name}[{i}]") for i, message in enumerate(value)]
    if not isinstance(value, str):
        raise OrditoError(f"{name} must be a string or a list of messages, got {type(value).__name__}")
    return [{"role": role, "content": value}]


def _message(message: Any, where: str) -> Any:
    if not isinstance(message, Mapping) or "from" not in message:
        return message
    speaker, value = message["from"], message.get("value")
    rest = {key: item for key, item in message.items() if key not in ("from", "value")}
    if speaker == "function_call":
        return rest | {"role": "assistant", "content": None, "tool_calls": _calls(value, where)}
    role = _ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise OrditoError(f"{where}: is from {speaker!r:.50}, expected one of {', '.join([*_ROLES, 'function_call'])}")
    return rest | {"role": role, "content": value}


def _calls(value: Any, where: str) -> list[dict[str, Any]]:
    calls = _json(value, f"{where}: a function_call")
    return [{"type": "function", "function": call} for call in (calls if isinstance(calls, list) else [calls])]


def _tools(value: Any) -> Any:
    """Tools, also as JSON text, and also as plain functions without {"type": "function"} around them."""
    tools = _json(value, "tools") if isinstance(value, str) and value.strip() else value or None
    if not isinstance(tools, list):
        return tools
    plain = [isinstance(tool, Mapping) and "function" not in tool and "name" in tool for tool in tools]
    return [{"type": "function", "function": tool} if bare else tool for tool, bare in zip(tools, plain, strict=True)]


def _json(value: Any, what: str) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise OrditoError(f"{what} must be JSON, got {value!r:.100} ({error})") from None


def _keys(record: Record) -> str:
    names = [str(name)[:40] for name in record]
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "no fields"
