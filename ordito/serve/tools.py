"""The tools of a request, and which of them the answer must call."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ordito.engine.grammar import Grammar
from ordito.serve.errors import ApiError, Json

Chosen = str | None
"""The name of the tool that must be called, "" for any of them, None where the model decides."""


def offered_tools(tools: Sequence[Mapping[str, Any]] | None, choice: Any) -> tuple[list[Json] | None, Chosen]:
    """The tools that are put into the prompt, and which of them must be called, from OpenAI's `tools` and `tool_choice`.

    Raises `ApiError` for tools that are not functions, and for a choice that is unknown or impossible.
    """
    listed = [dict(tool) for tool in tools or () if tool.get("type", "function") == "function"]
    if tools and not listed:
        raise ApiError(400, "tools: only functions are supported", param="tools")
    for place, tool in enumerate(listed):
        function = tool.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise ApiError(400, f"tools[{place}] must be a function with a name", param="tools")
    names = [tool["function"]["name"] for tool in listed]
    match choice:
        case None | "auto":
            return listed or None, None
        case "none":
            return None, None
        case "required":
            if not listed:
                raise ApiError(400, "tool_choice is required, but there are no tools", param="tool_choice")
            return listed, ""
        case {"type": "function", "function": {"name": str(name)}} if name in names:
            return listed, name
        case {"type": "function", "function": {"name": str(name)}}:
            raise ApiError(400, f"tool_choice: there is no tool {name[:100]!r}", param="tool_choice")
    shown = json.dumps(choice)[:100]
    raise ApiError(400, f"tool_choice is {shown}, expected none, auto, required or a function", param="tool_choice")


def tool_settings(tools: list[Json] | None, chosen: Chosen, grammar: Grammar | None = None) -> Json:
    """The settings of `Model.prepare` for tools, and for the grammar of an answer that need not call one.

    Raises `ApiError` if the answer has to be both a call and what the grammar describes.
    """
    if grammar is not None and chosen is not None:
        raise ApiError(400, "a tool_choice that forces a call excludes a format or grammar of the answer", param="tool_choice")
    # Without tools, too: earlier calls in the conversation are put into words where the template knows none.
    return {"tools": tools, "tools_in_words": True, "must_call": chosen, "grammar": grammar}
