"""The parts in which an answer is streamed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Said:
    """Text for the user."""

    text: str


@dataclass(frozen=True)
class Thought:
    """Text of the model's reasoning."""

    text: str


@dataclass(frozen=True)
class Call:
    """The beginning of a tool call, number `index` of the answer; its arguments follow."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class Arguments:
    """A piece of the arguments of a call; all pieces joined are JSON text."""

    index: int
    text: str


Part = Said | Thought | Call | Arguments


@dataclass(frozen=True)
class Answer:
    """A whole answer: its text, its reasoning, and its calls as (id, name, arguments as JSON text)."""

    text: str
    thinking: str
    calls: tuple[tuple[str, str, str], ...]


def joined(parts: Iterable[Part]) -> Answer:
    """The answer that consists of `parts`, all of them or those so far."""
    said, thoughts = [], []
    calls: dict[int, Call] = {}
    arguments: dict[int, list[str]] = {}
    for part in parts:
        match part:
            case Said(text):
                said.append(text)
            case Thought(text):
                thoughts.append(text)
            case Call(index):
                calls[index] = part
            case Arguments(index, text):
                arguments.setdefault(index, []).append(text)
    made = tuple((call.id, call.name, "".join(arguments.get(index, []))) for index, call in sorted(calls.items()))
    return Answer("".join(said), "".join(thoughts), made)
