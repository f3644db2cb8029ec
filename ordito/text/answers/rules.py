"""Grammars of tool calls, for answers that must call a tool."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ordito.text.answers.style import HERMES, Style

Tools = Sequence[tuple[str, Mapping[str, Any]]]


def call_rules(style: Style, template: str, tools: Sequence[Mapping[str, Any]], token: Callable[[str], str]) -> str:
    """A grammar of one call of one of `tools`, in the Lark dialect of llguidance, as a model of this style writes it.

    `template` shows which version of a format is meant; `token` spells a marker as the vocabulary has it.
    """
    named = [(tool["function"]["name"], _closed(tool["function"].get("parameters"))) for tool in tools]
    if style.channels:
        return _one_of(
            [
                f"{token('<|channel|>')} {json.dumps(f'commentary to=functions.{name} ')} {token('<|constrain|>')} "
                f'"json" {token("<|message|>")} {_json(parameters)}'
                for name, parameters in named
            ]
        )
    kind = style.tools or HERMES
    begin, end = (token(marks[0]) if marks else "" for marks in (kind.begin, kind.end))
    match kind.name:
        case "hermes":
            return f'start: {begin} "\\n" {_object(named)} "\\n" {end}'
        case "phi-4-mini":
            return f'start: {begin} "[" {_object(named)} "]" {end}'
        case "llama-3":
            return f"start: {_object(named, 'parameters')}"
        case "mistral" if "[ARGS]" not in template:
            return f'start: {begin} "[" {_object(named)} "]"'
        case "mistral":
            id = f"{token('[CALL_ID]')} /[a-zA-Z0-9]{{9}}/ " if "[CALL_ID]" in template else ""
            return _one_of([f"{begin} {json.dumps(n)} {id}{token('[ARGS]')} {_json(parameters)}" for n, parameters in named])
        case "deepseek":
            first, separator = token(kind.skipped[0]), token(kind.inner[0])
            if "```json" in template:
                head, opened, closed = f'{first} {begin} "function" {separator}', '"\\n```json\\n"', '"\\n```"'
                return _one_of([f"{head} {json.dumps(n)} {opened} {_json(form)} {closed} {end}" for n, form in named])
            return _one_of([f"{first} {begin} {json.dumps(n)} {separator} {_json(form)} {end}" for n, form in named])
    raise AssertionError(kind.name)


def _closed(parameters: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The schema of a tool's parameters, which excludes others unless it allows them."""
    if parameters and "properties" not in parameters:
        return parameters
    return {"type": "object", "properties": {}, "additionalProperties": False, **(parameters or {})}


def _one_of(forms: Sequence[str]) -> str:
    return "start: " + "\n     | ".join(forms)


def _json(schema: Mapping[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": {"whitespace_flexible": False}})


def _object(tools: Tools, arguments: str = "arguments") -> str:
    """An object with the name of a tool and arguments that fit it."""
    shapes = [
        {
            "type": "object",
            "properties": {"name": {"const": name}, arguments: parameters},
            "required": ["name", arguments],
            "additionalProperties": False,
        }
        for name, parameters in tools
    ]
    return _json({"anyOf": shapes} if len(shapes) > 1 else shapes[0])
