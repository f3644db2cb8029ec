"""Validation of conversations and tools, and their conversion to plain data that is safe in a template."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ordito.errors import TemplateError, did_you_mean

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
Message = Mapping[str, Any]
Tool = Mapping[str, Any]

MAX_DEPTH = 128
"""Largest nesting of untrusted lists and mappings; templates and schemas use a handful of levels."""
_REASONING = ("reasoning_content", "thinking", "reasoning")  # its keys in templates and servers, the most common first
# Values of "role" and "type" that templates compare with constants.
_WORDS = frozenset({*ROLES, "text", "object", "array", "string", "number", "integer", "boolean", "null"})


def check_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The conversation as plain data. Raises `TemplateError`, which says which message is wrong and how.

    Arguments of tool calls given as JSON text, as servers send them, become mappings, which templates expect; an empty
    `tool_calls` is removed.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise TemplateError(f"a conversation must be a list of messages, got {type(messages).__name__}")
    if not messages:
        raise TemplateError("a conversation must have at least one message, got none")
    return [_check_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def joined(content: object) -> object:
    """The content of a checked message: text parts as one string, anything else as it is."""
    return "".join(part["text"] for part in content) if isinstance(content, list) else content


def check_tools(tools: Sequence[Tool] | None) -> list[dict[str, Any]] | None:
    """The tools as plain data, None for an empty list. Raises `TemplateError` for one that is no function with a name."""
    if not tools:
        return None
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence):
        raise TemplateError(f"tools must be a list of functions, got {type(tools).__name__}")
    return [_check_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools)]


def _check_tool(tool: Tool, where: str) -> dict[str, Any]:
    plain = plain_data(tool, where)
    function = plain.get("function") if isinstance(plain, dict) else None
    if not isinstance(function, dict) or not _named(function):
        shape = '{"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}'
        raise TemplateError(f"{where} must be {shape}, got {plain!r:.100}")
    for key, kind in (("description", str), ("parameters", dict)):
        if not isinstance(function.get(key), kind | None):
            expected = "a string" if kind is str else "a mapping, a JSON schema"
            raise TemplateError(f"{where}: {key} must be {expected}, got {type(function[key]).__name__}")
    return {"type": "function", **plain}


def _check_message(message: Message, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise TemplateError(f"{where} must be a mapping with a role and a content, got {type(message).__name__}")
    plain: dict[str, Any] = plain_data(message, where)
    role = plain.get("role")
    if not isinstance(role, str) or role not in ROLES:
        near = did_you_mean(role, ROLES) if isinstance(role, str) else ""
        raise TemplateError(f"{where}: role must be one of {', '.join(ROLES)}, got {str(role)[:50]!r}{near}")
    content = plain.get("content")
    if isinstance(content, list):
        for j, part in enumerate(content):
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise TemplateError(f'{where}: content[{j}] must be {{"type": "text", "text": "..."}}, got {part!r:.100}')
    elif content is None and role != "assistant":
        raise TemplateError(f"{where}: a message of role {role} must have a content")
    elif not isinstance(content, str | None):
        raise TemplateError(f"{where}: content must be a string or a list of text parts, got {type(content).__name__}")
    for key in ("name", "tool_call_id", *_REASONING):
        if not isinstance(plain.get(key), str | None):
            raise TemplateError(f"{where}: {key} must be a string, got {type(plain[key]).__name__}")
    if not plain.get("tool_calls"):
        plain.pop("tool_calls", None)
    elif role != "assistant":
        raise TemplateError(f"{where}: only an assistant calls tools, got tool_calls in a message of role {role}")
    else:
        plain["tool_calls"] = _check_calls(plain["tool_calls"], where)
    # Templates and clients use several keys for the assistant's reasoning: it is given under the two that templates read.
    reasoning = next((plain[key] for key in _REASONING if plain.get(key) is not None), None)
    return plain if reasoning is None else {"thinking": reasoning, **plain, "reasoning_content": reasoning}


def _check_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise TemplateError(f"{where}: tool_calls must be a list, got {type(calls).__name__}")
    checked = []
    for j, call in enumerate(calls):
        place = f"{where}: tool_calls[{j}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not _named(function):
            raise TemplateError(f'{place} must be {{"function": {{"name": ..., "arguments": {{...}}}}}}, got {call!r:.100}')
        if not isinstance(call.get("id"), str | None):
            raise TemplateError(f"{place}: id must be a string, got {type(call['id']).__name__}")
        arguments = _arguments(function.get("arguments"))
        if arguments is None:
            raise TemplateError(f"{place}: arguments must be a JSON object, got {function.get('arguments')!r:.100}")
        checked.append({"type": "function", **call, "function": {**function, "arguments": arguments}})
    return checked


def with_short_ids(message: dict[str, Any]) -> dict[str, Any]:
    """The message with ids of calls shortened to nine letters and digits, which Mistral's templates require."""
    changed = dict(message)
    if isinstance(message.get("tool_call_id"), str):
        changed["tool_call_id"] = _short_id(message["tool_call_id"])
    if message.get("tool_calls"):
        calls = message["tool_calls"]
        changed["tool_calls"] = [call | {"id": _short_id(call["id"])} if call.get("id") else call for call in calls]
    return changed


def _short_id(id: str) -> str:
    return id if len(id) == 9 and id.isalnum() else hashlib.sha256(id.encode()).hexdigest()[:9]


def _named(function: dict[str, Any]) -> bool:
    return isinstance(function.get("name"), str) and bool(function["name"])


def _arguments(value: Any) -> dict[str, Any] | None:
    """The arguments of a call, which may be JSON text or missing, as a mapping; None if they are invalid."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else {}
        except (ValueError, RecursionError):
            return None
    return {} if value is None else value if isinstance(value, dict) and not deeper_than(value, MAX_DEPTH) else None


def deeper_than(value: Any, levels: int) -> bool:
    """Whether plain data has more than `levels` nested levels of lists and mappings; computed without recursion."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > levels:
            return True
        inner = [list(one.values()) if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [value for values in inner for value in values]
    return False


def guard_message(message: dict[str, Any], guarded: Callable[[str], str]) -> dict[str, Any]:
    """The message with `guard` applied to everything but its role."""
    kept = {key: item if key == "role" else guard(item, guarded) for key, item in message.items()}
    content = message.get("content")
    if isinstance(content, list):
        whole = "".join(part["text"] for part in content)
        # Consecutive parts may together spell a control token that none of them spells alone.
        if guarded(whole) != "".join(part["text"] for part in kept["content"]):
            kept["content"] = [{"type": "text", "text": guarded(whole)}]
    return kept


def guard(value: Any, guarded: Callable[[str], str]) -> Any:
    """The value with `guarded` applied to every string in it, keys included, except known values of "role" and "type"."""
    if isinstance(value, str):
        return guarded(value)
    if isinstance(value, dict):
        return {
            guarded(key): item if key in ("role", "type") and isinstance(item, str) and item in _WORDS else guard(item, guarded)
            for key, item in value.items()
        }
    return [guard(item, guarded) for item in value] if isinstance(value, list) else value


def plain_data(value: object, where: str) -> Any:
    """The value rebuilt from JSON's types, so that no object with methods of its own reaches a template.

    Raises `TemplateError` for other types.
    """
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return value if type(value) is kind else kind(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TemplateError(f"{where}: keys must be strings, got {type(key).__name__}")
        return {str(key): plain_data(item, where) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(item, where) for item in value]
    raise TemplateError(f"{where} must be made of strings, numbers, lists and mappings, got {type(value).__name__}")
