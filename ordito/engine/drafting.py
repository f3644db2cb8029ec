"""Guesses at what comes next, which the model then checks many at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

MOST = 8
"""Tokens that are guessed at once."""
LONGEST, SHORTEST = 4, 2
"""Lengths of the ending that is looked for in what came before."""
PATIENCE = 32
"""Tokens without a guess, after guesses that did not pay."""


class Drafter(Protocol):
    """Guesses the tokens that follow a text, and is told how many were right."""

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow `ids`."""

    def learn(self, guessed: int, right: int) -> None:
        """So many were guessed, and so many of them were right."""


class PromptLookup:
    """What followed the last time that the text ended as it ends now (prompt lookup decoding, github.com/apoorvumang).

    It guesses more after guesses that were right and fewer after wrong ones, and pauses where they do not pay: a guess costs
    what a token of a prompt costs.
    """

    def __init__(self) -> None:
        self.places: dict[tuple[int, ...], int] = {}
        self.known = 0
        self.size, self.pause = 4, 0

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow `ids`."""
        self._index(ids)
        if self.pause:
            self.pause -= 1
            return []
        for length in range(min(LONGEST, len(ids)), SHORTEST - 1, -1):
            place = self.places.get(tuple(ids[-length:]))
            if place is not None:
                return list(ids[place : place + min(self.size, most)])
        return []

    def learn(self, guessed: int, right: int) -> None:
        """So many were guessed, and so many of them were right."""
        if right == guessed:
            self.size = min(MOST, 2 * self.size)
        elif 2 * right < guessed:
            self.size //= 2
            if self.size == 0:
                self.size, self.pause = 1, PATIENCE

    def _index(self, ids: Sequence[int]) -> None:
        """Remember what followed each ending but the last, which nothing follows yet."""
        for end in range(max(self.known, SHORTEST), len(ids)):
            for length in range(SHORTEST, min(LONGEST, end) + 1):
                self.places[tuple(ids[end - length : end])] = end
        self.known = max(self.known, len(ids))
