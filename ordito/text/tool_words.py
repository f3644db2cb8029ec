"""Tools for models whose chat template does not support them: tools, calls and results are put into the text of messages, in
Hermes's format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_INSTRUCTIONS = """\
You can call these functions:
{tools}
To call one, answer with nothing but a JSON object with its name and arguments between tags, like this:
<tool_call>
{{"name": "function_name", "arguments": {{"argument": "value"}}}}
</tool_call>
Call a function only if it helps; else answer in words."""


def with_tool_words(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """The conversation with tools in the system message, calls in the assistant's messages, and results in the user's."""
    told = [_in_words(message) for message in messages]
    if not tools:
        return told
    listed = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    instructions = _INSTRUCTIONS.format(tools=listed)
    if told and told[0].get("role") in ("system", "developer"):
        opening = _text(told[0].get("content"))
        return [told[0] | {"content": f"{opening}\n\n{instructions}" if opening else instructions}, *told[1:]]
    return [{"role": "system", "content": instructions}, *told]


def _in_words(message: Mapping[str, Any]) -> dict[str, Any]:
    if message.get("role") == "tool":
        return {"role": "user", "content": f"<tool_response>\n{_text(message.get('content'))}\n</tool_response>"}
    if not message.get("tool_calls"):
        return dict(message)
    calls = [_call(call["function"]) for call in message["tool_calls"]]
    plain = {key: value for key, value in message.items() if key != "tool_calls"}
    return plain | {"content": "\n".join(part for part in (_text(message.get("content")), *calls) if part)}


def _call(function: Mapping[str, Any]) -> str:
    arguments = function.get("arguments") or {}
    given = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {json.dumps(function.get("name"))}, "arguments": {given}}}\n</tool_call>'


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""
