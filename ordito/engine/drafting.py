"""Guesses at what comes next, which the model then checks many at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ordito.runtime import Runtime

MOST = 8
"""Tokens that are guessed at once."""
LONGEST, SHORTEST = 4, 2
"""Lengths of the ending that is looked for in what came before."""
PAUSE = 32
"""Tokens without a guess, after guesses that did not pay."""
PIECE = 512
"""Tokens of a prompt that a draft model reads at once."""


class Drafter(Protocol):
    """Guesses the tokens that follow a text, and is told how many were right."""

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow `ids`."""

    def learn(self, guessed: int, right: int) -> None:
        """So many were guessed, and so many of them were right."""


class Patience:
    """How many tokens to guess: more after guesses that were right, fewer after wrong ones, and none for a while where they
    do not pay. A guess costs what a token of a prompt costs."""

    def __init__(self, size: int = 4) -> None:
        self.size, self.pause = size, 0

    def now(self, most: int) -> int:
        """How many to guess now."""
        if self.pause:
            self.pause -= 1
            return 0
        return min(self.size, most)

    def learn(self, guessed: int, right: int) -> None:
        """So many were guessed, and so many of them were right."""
        if right == guessed:
            self.size = min(MOST, 2 * self.size)
        elif 2 * right < guessed:
            self.size //= 2
            if self.size == 0:
                self.size, self.pause = 1, PAUSE


class PromptLookup:
    """What followed the last time that the text ended as it ends now (prompt lookup decoding, github.com/apoorvumang)."""

    def __init__(self) -> None:
        self.places: dict[tuple[int, ...], int] = {}
        self.known = 0
        self.patience = Patience()

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow `ids`."""
        self._index(ids)
        if count := self.patience.now(most):
            for length in range(min(LONGEST, len(ids)), SHORTEST - 1, -1):
                place = self.places.get(tuple(ids[-length:]))
                if place is not None:
                    return list(ids[place : place + count])
        return []

    def learn(self, guessed: int, right: int) -> None:
        """So many were guessed, and so many of them were right."""
        self.patience.learn(guessed, right)

    def _index(self, ids: Sequence[int]) -> None:
        """Remember what followed each ending but the last, which nothing follows yet."""
        for end in range(max(self.known, SHORTEST), len(ids)):
            for length in range(SHORTEST, min(LONGEST, end) + 1):
                self.places[tuple(ids[end - length : end])] = end
        self.known = max(self.known, len(ids))


class DraftModel:
    """What a smaller model of the same vocabulary would say (speculative decoding, arXiv:2211.17192).

    Its guesses are its most probable tokens; which of them stand is decided by what the large model itself chooses, so that
    answers, drawn ones too, are the large model's own.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime, self.sequence = runtime, runtime.sequence()
        self.read: list[int] = []  # what the sequence holds
        self.patience = Patience()

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow `ids`."""
        count = min(self.patience.now(most), self.runtime.spec.context - len(ids))
        if count <= 0:
            return []
        limit = min(len(self.read), len(ids) - 1)
        shared = next((place for place in range(limit) if self.read[place] != ids[place]), limit)
        self.sequence.rewind(shared)
        made: list[int] = []
        unread = list(ids[self.sequence.length :])
        while len(made) < count:
            for start in range(0, len(unread), PIECE):
                piece = unread[start : start + PIECE]
                logits = self.runtime.step([(self.sequence, piece)], [len(piece) - 1], greatest=1)
            made.append(int(logits[0].argmax()))
            unread = made[-1:]
        self.read = [*ids, *made[:-1]]
        return made

    def learn(self, guessed: int, right: int) -> None:
        """So many were guessed, and so many of them were right."""
        self.patience.learn(guessed, right)
