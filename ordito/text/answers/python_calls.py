"""Incremental parsing of tool calls in Python's syntax, and of the several forms in which Llama writes calls."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ordito.text.answers.json_calls import LONGEST_NAME, Body, Event, JsonCalls
from ordito.text.answers.tagged_calls import member, parsed, properties_of

_ARGUMENT = re.compile(r"\s*(\w+)\s*=(?!=)(.*)", re.DOTALL)


class PythonCalls(Body):
    """Parses a list `[f(a=1), g(b="x")]`, or one call of a built-in tool, `f.call(a="x")`. Values are literals; one without a
    name is the next parameter of the tool's schema. `offered` are the schemas by tool."""

    def __init__(self, offered: Mapping[str, Any]) -> None:
        self.offered = offered
        self.done = self.listed = False
        self.state = "open"
        self.name = ""
        self.keys: list[str] = []  # of the arguments so far
        self.parameters: list[str] = []
        self.raw: list[str] = []  # the current argument
        self.quote, self.escaped, self.depth = "", False, 0

    def push(self, c: str) -> list[Event]:
        """What the next character brings."""
        match self.state, c:
            case "argument", _:
                return self._argument(c)
            case ("open", "[") if not self.listed:
                self.listed = True
            case ("next", ","):
                self.state = "open"
            case ("next", "]"):
                self.done = True
            case ("open", "(") if self.name:
                return self._called()
            case ("open", _) if (c.isalnum() or c in "_.-") and len(self.name) < LONGEST_NAME:
                self.name += c
            case _ if not c.isspace() or self.name:
                raise ValueError(c)
        return []

    def _called(self) -> list[Event]:
        name, self.name = self.name, ""
        if not self.listed:
            if not name.endswith(".call"):
                raise ValueError(name)
            name = name.removesuffix(".call")
        self.state, self.keys, self.raw = "argument", [], []
        self.parameters = [*properties_of(self.offered, name)]
        return [("name", name), ("arguments", "{")]

    def _argument(self, c: str) -> list[Event]:
        if self.quote:
            ends = c == self.quote and not self.escaped
            self.escaped = c == "\\" and not self.escaped
            self.quote = "" if ends else self.quote
        elif not self.depth and c in ",)":
            return self._argument_ends(c == ")")
        elif c in "\"'":
            self.quote, self.escaped = c, False
        else:
            self.depth += (c in "([{") - (c in ")]}")
        self.raw.append(c)
        return []

    def _argument_ends(self, last: bool) -> list[Event]:
        text, self.raw = "".join(self.raw), []
        events: list[Event] = []
        if text.strip():
            named = _ARGUMENT.fullmatch(text)
            key = named[1] if named else next((key for key in self.parameters if key not in self.keys), f"_{len(self.keys)}")
            value = parsed((named[2] if named else text).strip())
            events.append(("arguments", (", " if self.keys else "") + member(key, value)))
            self.keys.append(key)
        if last:
            events.append(("arguments", "}"))
            self.state, self.done = "next", not self.listed
        return events


class LlamaCalls(Body):
    """Parses Llama's calls: objects of JSON, a list of them, or Python's syntax (Llama 3.2 and 4; built-in tools of 3.1)."""

    def __init__(self, offered: Mapping[str, Any]) -> None:
        self.offered = offered
        self.inner: Body | None = None
        self.opened = ""

    def push(self, c: str) -> list[Event]:
        """What the next character brings."""
        if self.inner is None:
            if c.isspace():
                return []
            if c == "[" and not self.opened:
                self.opened = c
                return []
            self.inner = JsonCalls() if c == "{" else PythonCalls(self.offered)
            c = self.opened + c
        events = self.inner.push_all(c)
        self.done = self.inner.done
        return events
