"""Limits of one rendering of a chat template: its time, its memory, and the size of each value.

Templates come from downloaded files and are not trusted. Every new value must be *admitted*, which checks its weight. As no
value heavier than `largest` ever exists, printing, comparing, hashing or sorting any value is quick, so that checking the clock
between operations is enough.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from itertools import chain
from types import GeneratorType
from typing import Any, NoReturn

from ordito.errors import TemplateError

SECONDS = 2.0  # an honest template takes milliseconds, so that even a busy machine does not make it fail
LARGEST = 2_000_000  # characters in one value, beyond those of the conversation itself
TOTAL = 128_000_000  # bytes made by one rendering, kept or not
_SCALAR = 8
_ELEMENT = 60  # bytes of a reference and of the small object behind it

_active = threading.local()


class LimitError(TemplateError):
    """A template that exceeds its limits."""


class Budget:
    """The limits of one rendering of `data`, and what it has used; `with Budget(...):` makes it this thread's active one."""

    def __init__(self, data: object = None, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self.largest = sys.maxsize
        self.left = sys.maxsize
        self._deadline = float("inf")
        self._weights: dict[int, tuple[object, int]] = {}  # the object is kept, so that its id stays its own
        self._refused: str | None = None
        size = self.weigh(data)
        self.largest = LARGEST + 8 * size
        self.left = TOTAL + 64 * size

    def __enter__(self) -> Budget:
        self._deadline = time.monotonic() + self.seconds
        _active.budget = self
        return self

    def __exit__(self, *exc: object) -> None:
        _active.budget = None
        self._weights.clear()

    def refuse(self, why: str) -> NoReturn:
        """Raise `LimitError`, now and at every later step, in case a filter catches the first one."""
        self._refused = self._refused or f"the chat template was stopped: {why}; use another template"
        raise LimitError(self._refused)

    def tick(self) -> None:
        """Account for one step of work. Raises `LimitError` if the time is up."""
        if self._refused:
            raise LimitError(self._refused)
        if time.monotonic() > self._deadline:
            self.refuse(f"it ran for more than {self.seconds:g} s")

    def charge(self, n_bytes: int) -> None:
        """Account for one step of work that makes `n_bytes` bytes."""
        self.tick()
        self.left -= n_bytes
        if self.left < 0:
            self.refuse("it makes too much text or too many values")

    def room(self, n_chars: int) -> None:
        """Raise `LimitError` if an operation is about to make a value of too many characters or elements."""
        if n_chars > self.largest:
            self.refuse(f"it makes a value of {n_chars:,} characters, of at most {self.largest:,}")

    def weigh(self, value: object) -> int:
        """Roughly the number of characters that the value prints, counting repeated references each time.

        `x = [x, x]` thirty times over makes 30 small lists that print 2^30 elements, and this is the number that matters.
        The weight of a container is cached (templates cannot modify one), so that weighing costs only its own length.
        """
        if isinstance(value, str):
            return _SCALAR + len(value)
        if isinstance(value, bool) or value is None:
            return _SCALAR
        if isinstance(value, int):
            return _SCALAR + value.bit_length() // 3
        children: Iterator[object]
        if isinstance(value, list | tuple | KeysView | ValuesView):
            children = iter(value)
        elif isinstance(value, dict):
            children = chain(value, value.values())
        elif isinstance(value, ItemsView):
            children = chain.from_iterable(value)
        else:
            return 3 * _SCALAR
        known = self._weights.get(id(value))
        if known is not None:
            return known[1]
        weight = _SCALAR
        for child in children:
            weight += self.weigh(child)
            if weight > self.largest:
                self.room(weight)
        self._weights[id(value)] = (value, weight)
        return weight

    def admit(self, value: Any) -> Any:
        """Account for a new value, and return it. Raises `LimitError` if it is too heavy; generators count their steps."""
        if isinstance(value, GeneratorType):
            self.charge(_ELEMENT)
            return self._counted(value)
        self.room(self.weigh(value))
        if isinstance(value, str | int):
            self.charge(sys.getsizeof(value))
        elif isinstance(value, list | tuple | dict):
            self.charge(_ELEMENT * (len(value) + 1))
        else:
            self.charge(_ELEMENT)
        return value

    def text(self, value: object) -> str:
        """What `{{ value }}` prints, accounted for."""
        printed = value if isinstance(value, str) else str(value)
        self.charge(sys.getsizeof(printed))
        return printed

    def _counted(self, values: Iterator[Any]) -> Iterator[Any]:
        for value in values:
            self.tick()
            yield value


def budget() -> Budget:
    """The budget of the current rendering of this thread."""
    current: Budget | None = getattr(_active, "budget", None)
    assert current is not None, "template code runs outside of a rendering"
    return current
