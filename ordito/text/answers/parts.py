"""The pieces that an answer comes in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Said:
    """Text for the user."""

    text: str


@dataclass(frozen=True)
class Thought:
    """Text of the model's thinking."""

    text: str


@dataclass(frozen=True)
class Call:
    """A call of a tool begins, the `index`th of the answer; its arguments follow."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class Arguments:
    """More of the arguments of a call: JSON text, whole when all of them are joined."""

    index: int
    text: str


Part = Said | Thought | Call | Arguments


@dataclass(frozen=True)
class Answer:
    """An answer as a whole: its text, its thinking, and its calls as (id, name, arguments as JSON text)."""

    text: str
    thinking: str
    calls: tuple[tuple[str, str, str], ...]


def joined(parts: Iterable[Part]) -> Answer:
    """All pieces of an answer, or those so far, as one."""
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
