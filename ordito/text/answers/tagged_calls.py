"""Incremental parsing of tool calls in tags, as Qwen3-Coder writes them, with values typed by the tools' schemas."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from typing import Any

from ordito.text.answers.json_calls import LONGEST_NAME, Body, Event

FUNCTION, PARAMETER = "<function=", "<parameter="
END_FUNCTION, END_PARAMETER, END_CALL = "</function>", "</parameter>", "</tool_call>"
_OPENED = {PARAMETER: END_PARAMETER, FUNCTION: END_FUNCTION}
_BEHIND = {END_PARAMETER: (PARAMETER, END_FUNCTION, END_CALL), END_FUNCTION: (END_CALL,)}
"""What follows a tag that ends a value; before anything else it is part of the value."""


class TaggedCall(Body):
    """Parses `<function=NAME>`, then `<parameter=KEY>`, a value, `</parameter>` for each argument, and `</function>`.

    A value may spell tags, whole calls even: it ends at the end tag that closes none which the value itself opened at the
    beginning of a line, and which another tag follows. If its end tag was forgotten, the next parameter of the schema ends it,
    or the end of the call. `offered` are the schemas by tool.
    """

    def __init__(self, offered: Mapping[str, Any]) -> None:
        self.offered = offered
        self.done = False
        self.tag = ""  # what was read of a tag outside of values
        self.named = False
        self.properties: Mapping[str, Any] = {}
        self.seen: set[str] = set()
        self.key: str | None = None
        self.value: list[str] = []
        self.nested: list[str] = []  # the end tags of what the value itself opens
        self.closed = ""  # a tag that ends the value if what follows it agrees
        self.after: list[str] = []  # what followed that tag
        self.next = ""  # the same, without white space before it

    def push(self, c: str) -> list[Event]:
        """What the next character brings."""
        if self.closed:
            return self._behind(c)
        return self._outside(c) if self.key is None else self._inside(c)

    def end(self) -> list[Event]:
        """What the end of the answer brings, where tags are missing."""
        if not self.named or self.done:
            return []
        return [*self._value_ends(), *self._call_ends()]

    def _outside(self, c: str) -> list[Event]:
        if not self.tag and c.isspace():
            return []
        self.tag += c
        awaited = (PARAMETER, END_FUNCTION, END_CALL) if self.named else (FUNCTION,)
        if not any(tag.startswith(self.tag) or self.tag.startswith(tag) for tag in awaited) or len(self.tag) > LONGEST_NAME:
            if not self.named:
                raise ValueError(c)
            self.tag = "<" if c == "<" else ""  # what stands between the tags of a call means nothing
            return []
        if c != ">":
            return []
        tag, self.tag = self.tag, ""
        if not self.named:
            return self._function(tag[len(FUNCTION) : -1])
        if tag.startswith(PARAMETER):
            self._open(tag[len(PARAMETER) : -1])
            return []
        return self._call_ends()

    def _function(self, name: str) -> list[Event]:
        if not name or any(c.isspace() or c in "{}<>\"'" for c in name):
            raise ValueError(name)
        self.named = True
        self.properties = properties_of(self.offered, name)
        return [("name", name), ("arguments", "{")]

    def _open(self, key: str) -> None:
        self.key, self.value, self.nested = key, [], []

    def _inside(self, c: str) -> list[Event]:
        self.value.append(c)
        if c != ">":
            return []
        recent = "".join(self.value[-LONGEST_NAME:])
        start = recent.rfind("<")
        tag = recent[start:] if start >= 0 else ""
        end = next((end for begin, end in _OPENED.items() if tag.startswith(begin)), None)
        if tag in self.nested:
            self.nested.remove(tag)
        elif tag in _BEHIND:
            del self.value[-len(tag) :]
            self.closed, self.after, self.next = tag, [], ""
        elif end is not None and (len(tag) == len(self.value) or recent[start - 1 : start] == "\n"):
            key = tag[len(PARAMETER) : -1] if end == END_PARAMETER else None
            if self.nested or key not in self.properties or key in self.seen or key == self.key:
                self.nested.append(end)
                return []
            del self.value[-len(tag) :]
            events = self._value_ends()
            self._open(str(key))
            return events
        return []

    def _behind(self, c: str) -> list[Event]:
        """Decide whether a tag ends the value by what follows it."""
        self.after.append(c)
        if not c.isspace() or self.next:
            self.next += c
        followers = _BEHIND[self.closed]
        if any(tag.startswith(self.next) and tag != self.next for tag in followers):
            return []
        if self.next in followers:
            ends, after = self.closed == END_FUNCTION, self.next
            return self._value_ends() + (self._call_ends() if ends else self.push_all(after))
        # It was part of the value, and so is what followed, which may contain the next tag.
        self.value += self.closed
        after, self.closed, self.after = "".join(self.after), "", []
        return self.push_all(after)

    def _value_ends(self) -> list[Event]:
        if self.key is None:
            return []
        text, key = "".join(self.value), self.key
        text = text.removeprefix("\n").removesuffix("\n")
        self.key, self.closed, self.after = None, "", []
        separator = ", " if self.seen else ""
        self.seen.add(key)
        return [("arguments", separator + member(key, typed(text, self.properties.get(key))))]

    def _call_ends(self) -> list[Event]:
        self.done = True
        return [("arguments", "}")]


def properties_of(offered: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The parameters' schemas of the tool of this name, as far as it declares any."""
    schema = offered.get(name)
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    return properties if isinstance(properties, Mapping) else {}


def typed(text: str, schema: Any) -> Any:
    """The value that `text` means by a parameter's schema, None if it is not declared: text stays what it is if it has to be
    a string, is not declared, or is nothing of its type. Of several types the first counts that is not null.

    >>> [typed("1", {"type": name}) for name in ("string", "integer", "boolean")]
    ['1', 1, False]
    """
    if not isinstance(schema, Mapping):
        return text
    types, kind = _types(schema), "string" if is_text(schema) else _kind(schema)
    if text.lower() in ("null", "none") and ("null" in types or kind not in ("string", "")):
        return None
    match kind:
        case "string":
            return text
        case "boolean" | "bool":
            return text.lower() == "true"
        case "integer" | "int":
            try:
                return int(text)
            except ValueError:
                return text
        case "number" | "float":
            try:
                number = float(text)
            except ValueError:
                return text
            if not math.isfinite(number):
                return text
            return int(number) if number.is_integer() else number
        case _:
            return parsed(text)


def is_text(schema: Mapping[str, Any]) -> bool:
    """Whether a value of this schema is text as it is written."""
    return _kind(schema) in ("string", "str", "text", "char", "varchar", "enum")


def _kind(schema: Mapping[str, Any]) -> str:
    types = _types(schema)
    return next((name for name in types if name != "null"), "null" if types else "")


def _types(schema: Mapping[str, Any]) -> list[str]:
    """The names of the types that a schema allows, as far as it says."""
    said = schema.get("type")
    if said is not None:
        return [str(name).strip().lower() for name in (said if isinstance(said, list) else [said])]
    for several in ("anyOf", "oneOf"):
        if isinstance(options := schema.get(several), list):
            return [name for option in options if isinstance(option, Mapping) for name in _types(option)]
    if isinstance(values := schema.get("enum"), list) and all(isinstance(value, str) for value in values):
        return ["string"]
    return []


def parsed(text: str) -> Any:
    """JSON, or else a literal of Python, or else the text itself."""
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
            json.dumps(value, allow_nan=False)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        return value
    return text


def member(key: str, value: Any) -> str:
    """A member of an object, as JSON text; lone surrogates, which no encoding has, stay escaped."""
    text = f"{json.dumps(key, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{json.dumps(key)}: {json.dumps(value)}"
    return text
