"""Grammars of tool calls, for answers that must call a tool."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ordito.text.answers.style import HERMES, Style
from ordito.text.answers.tagged_calls import is_text

Tools = Sequence[tuple[str, Mapping[str, Any]]]


def call_rules(style: Style, template: str, tools: Sequence[Mapping[str, Any]], token: Callable[[str], str]) -> str:
    """Rules for `call`, one of `tools`, in the Lark dialect of llguidance, as a model of this style writes it.

    `template` shows which version of a format is meant; `token` spells a marker as the vocabulary has it. In channels, the
    rules begin behind `<|channel|>`, where another channel may be named.
    """
    named = [(tool["function"]["name"], _closed(tool["function"].get("parameters"))) for tool in tools]
    if style.channels:
        return _one_of(
            [
                f"{json.dumps(f'commentary to=functions.{name} ')} {token('<|constrain|>')} "
                f'"json" {token("<|message|>")} {_json(parameters)}'
                for name, parameters in named
            ]
        )
    kind = style.tools or HERMES
    begin, end = (token(marks[0]) if marks else "" for marks in (kind.begin, kind.end))
    match kind.name:
        case "hermes":
            return f'call: {begin} "\\n" {_object(named)} "\\n" {end}'
        case "qwen3-coder":
            return f"{_one_of([f'{begin} {_tagged(name, parameters)} {end}' for name, parameters in named])}\n{_VALUE}"
        case "phi-4-mini":
            return f'call: {begin} "[" {_object(named)} "]" {end}'
        case "llama-3":
            return f"call: {_object(named, 'parameters')}"
        case "mistral" if "[ARGS]" not in template:
            return f'call: {begin} "[" {_object(named)} "]"'
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


def answer_rules(style: Style, template: str, tools: Sequence[Mapping[str, Any]], token: Callable[[str], str]) -> str:
    """Rules of an answer that a grammar `@answer` describes, or that calls some of `tools` instead."""
    answer = f'"final" {token("<|message|>")} @answer' if style.channels else "@answer"
    if not tools:
        return f"start: {answer}"
    more = ' ("\\n" call)*' if style.tools is not None and style.tools.name in ("hermes", "qwen3-coder") else ""
    return f"start: {answer} | call{more}\n{call_rules(style, template, tools, token)}"


def _closed(parameters: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The schema of a tool's parameters, which excludes others unless it allows them."""
    if parameters and "properties" not in parameters:
        return parameters
    return {"type": "object", "properties": {}, "additionalProperties": False, **(parameters or {})}


def _one_of(forms: Sequence[str]) -> str:
    return "call: " + "\n    | ".join(forms)


_VALUE = r"value[lazy]: /(?s:.*)\n<\/parameter>\n/"
"""A parameter's text as Qwen3-Coder writes it, with its end tag."""


def _tagged(name: str, parameters: Mapping[str, Any]) -> str:
    """A call in Qwen3-Coder's tags, between its markers: strings as they are, other values in JSON."""
    needed, properties = parameters.get("required"), parameters.get("properties")
    shared = {key: parameters[key] for key in ("$defs", "definitions") if key in parameters}
    rules = [json.dumps(f"\n<function={name}>\n")]
    for key, schema in properties.items() if isinstance(properties, Mapping) else ():
        schema = schema if isinstance(schema, Mapping) else {}
        value, end = "value", ""
        opened, choices = f"<parameter={key}>\n", schema.get("enum")
        if is_text(schema) and isinstance(choices, list):
            value, end = f"({' | '.join(json.dumps(str(one), ensure_ascii=False) for one in choices)})", ' "\\n</parameter>\\n"'
        elif not is_text(schema):
            value, end = _json({**schema, **shared}), ' "\\n</parameter>\\n"'
        rule = f"{json.dumps(opened)} {value}{end}"
        rules.append(rule if isinstance(needed, list) and key in needed else f"({rule})?")
    return " ".join((*rules, json.dumps("</function>\n")))


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
