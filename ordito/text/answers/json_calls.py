"""Incremental parsing of tool calls in JSON, character by character, so that text within a string never ends a call."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Literal

Event = tuple[Literal["name", "arguments"], str]

LONGEST_NAME = 1000
"""Characters before a call's arguments, at most: what is longer is no call."""


class Body(ABC):
    """An incremental parser of a call's body. `done`: all of it came."""

    done = False

    @abstractmethod
    def push(self, c: str) -> list[Event]:
        """The events that the next character completes. Raises `ValueError` for an invalid character."""

    def push_all(self, text: str) -> list[Event]:
        """The events that several characters complete."""
        return [event for c in text for event in self.push(c)]

    def end(self) -> list[Event]:
        """The events that the end of the answer completes. By default none: the arguments are what was written."""
        return []


class JsonValue:
    """Tracks one JSON value: `push` says of each character whether it is inside, the value's last, or behind a scalar."""

    def __init__(self) -> None:
        self.depth, self.in_string, self.escaped, self.begun = 0, False, False, False
        self.scalar = False

    def push(self, c: str) -> Literal["inside", "last", "behind"]:
        """The position of `c`. Raises `ValueError` for a character with which no value begins."""
        if self.in_string:
            if self.escaped:
                self.escaped = False
            elif c == "\\":
                self.escaped = True
            elif c == '"':
                self.in_string = False
                return "inside" if self.depth else "last"
            return "inside"
        if self.scalar and not self.depth:
            return "behind" if c in ",}] \t\r\n" else "inside"
        if c == '"':
            self.in_string = self.begun = True
        elif c in "{[":
            self.depth, self.begun = self.depth + 1, True
        elif c in "}]":
            self.depth -= 1
            if self.depth < 0:
                raise ValueError(c)
            return "inside" if self.depth else "last"
        elif not self.begun and not c.isspace():
            if c not in "-0123456789tfn":
                raise ValueError(c)
            self.scalar = self.begun = True
        return "inside"


class JsonCalls(Body):
    """Parses one object {"name": ..., "arguments": {...}}, or a list of them.

    Arguments that precede the name are held until it comes; arguments given as JSON text are decoded.
    """

    def __init__(self) -> None:
        self.done = self.listed = False
        self.state = "open"
        self.key = ""
        self.raw: list[str] = []
        self.value = JsonValue()
        self.named = self.has_arguments = False
        self.waiting: list[str] = []

    def push(self, c: str) -> list[Event]:
        """What the next character brings."""
        match self.state:
            case "value":
                return self._value(c)
            case "key":
                self.raw.append(c)
                if c == '"' and not _ends_escaped(self.raw[:-1]):
                    self.key, self.state = json.loads('"' + "".join(self.raw)), "colon"
                return []
        if c.isspace():
            return []
        match self.state, c:
            case "open", "[" if not self.listed:
                self.listed = True
            case ("open", "{") | ("next", "{"):
                self.state = "member"
                self.named = self.has_arguments = False
                self.waiting = []
            case ("next", ","):
                self.state = "open"
            case ("open", "]") | ("next", "]") if self.listed:
                self.done = True
            case ("member", '"'):
                self.state, self.raw = "key", []
            case ("member", ","):
                pass
            case ("member", "}"):
                return self._object_ends()
            case ("colon", ":"):
                self.state, self.raw, self.value = "value", [], JsonValue()
            case _:
                raise ValueError(c)
        return []

    def _value(self, c: str) -> list[Event]:
        where = self.value.push(c)
        events: list[Event] = []
        if where != "behind" and (self.raw or not c.isspace()):
            self.raw.append(c)
            # An object is streamed as it comes; a string must be complete before it can be decoded.
            if self.key in ("arguments", "parameters") and self.raw[0] in "{[":
                events = self._arguments(c)
        if where != "inside":
            self.state = "member"
            events += self._value_ends("".join(self.raw))
        return events + (self.push(c) if where == "behind" else [])

    def _value_ends(self, raw: str) -> list[Event]:
        if self.key == "name":
            name = json.loads(raw)
            if not isinstance(name, str) or not name:
                raise ValueError(raw)
            self.named = True
            waiting, self.waiting = self.waiting, []
            return [("name", name), *(("arguments", text) for text in waiting)]
        if self.key in ("arguments", "parameters") and raw[0] not in "{[":
            inner = json.loads(raw)
            return self._arguments(inner if isinstance(inner, str) and inner.strip() else "{}")
        return []

    def _arguments(self, text: str) -> list[Event]:
        self.has_arguments = True
        if self.named:
            return [("arguments", text)]
        self.waiting.append(text)
        return []

    def _object_ends(self) -> list[Event]:
        if not self.named:
            raise ValueError("}")
        self.state, self.done = "next", not self.listed
        return [] if self.has_arguments else [("arguments", "{}")]


class NamedCall(Body):
    """Parses a name and then the arguments, as Mistral and DeepSeek write calls.

    The head, up to the first brace of the arguments, contains the name, divided by one of the `separators` from the rest.
    """

    def __init__(self, separators: tuple[str, ...]) -> None:
        self.separators = separators
        self.done = False
        self.head = ""
        self.value: JsonValue | None = None

    def push(self, c: str) -> list[Event]:
        """What the next character brings."""
        if self.value is None:
            if c != "{":
                self.head += c
                if len(self.head) > LONGEST_NAME:
                    raise ValueError(c)
                return []
            self.value = JsonValue()
            self.value.push(c)
            return [("name", self._name()), ("arguments", c)]
        self.done = self.value.push(c) == "last"
        return [("arguments", c)]

    def _name(self) -> str:
        # DeepSeek V3 writes `function<sep>NAME\n```json\n`, V3.1 `NAME<sep>`, Mistral `NAME[CALL_ID]ID[ARGS]` or `NAME[ARGS]`.
        head = self.head
        for separator in self.separators:
            before, found, after = head.partition(separator)
            if found:
                head = after if before.strip() == "function" else before
        name = head.strip().split("\n")[0].strip()
        if not name:
            raise ValueError(self.head)
        return name


class MistralCalls(Body):
    """Parses Mistral's calls: a JSON list up to tokenizer version 7, a name and its arguments from version 11 on."""

    def __init__(self) -> None:
        self.inner: JsonCalls | NamedCall | None = None

    def push(self, c: str) -> list[Event]:
        """What the next character brings."""
        if self.inner is None:
            if c.isspace():
                return []
            self.inner = JsonCalls() if c in "[{" else NamedCall(("[CALL_ID]", "[ARGS]"))
        events = self.inner.push(c)
        self.done = self.inner.done
        return events


def _ends_escaped(raw: list[str]) -> bool:
    backslashes = 0
    while backslashes < len(raw) and raw[-1 - backslashes] == "\\":
        backslashes += 1
    return backslashes % 2 == 1
