"""The answers that wait to begin: users take turns, so that one with many requests does not hold up the others."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import islice

from ordito.engine.running import Running

LOOKAHEAD = 8
"""Waiting answers of a user that are considered for the next place, while those before them await another's prefill."""


class Queue:
    """A queue for each user, and whose turn it is. One thread changes it; others may ask for its length."""

    def __init__(self) -> None:
        self._users: OrderedDict[str, deque[Running]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, list(self._users.values())))

    def __iter__(self) -> Iterator[Running]:
        return (one for ones in self._users.values() for one in ones)

    def add(self, one: Running) -> None:
        """Put an answer behind those of its user."""
        self._users.setdefault(one.request.user, deque()).append(one)

    def put_back(self, one: Running) -> None:
        """Put a preempted answer before those of its user."""
        self._users.setdefault(one.request.user, deque()).appendleft(one)

    def first(self, ready: Callable[[Running], bool]) -> Running | None:
        """The answer that begins next: the first `ready` one of the first user who has any. It stays in the queue."""
        return next((one for ones in self._users.values() for one in islice(ones, LOOKAHEAD) if ready(one)), None)

    def take(self, one: Running) -> None:
        """Remove an answer, since it begins: the turn is another user's."""
        self._users.move_to_end(one.request.user)
        self.remove(one)

    def remove(self, one: Running) -> None:
        """Remove an answer."""
        ones = self._users[one.request.user]
        ones.remove(one)
        if not ones:
            del self._users[one.request.user]

    def clear(self) -> None:
        """Remove all answers."""
        self._users.clear()
