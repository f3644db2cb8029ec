"""Speculative decoding: draft tokens, which the model then checks all at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ordito.runtime import Runtime

MAX_DRAFT = 8
"""Tokens of a draft, at most."""
MAX_NGRAM, MIN_NGRAM = 4, 2
"""Lengths of the n-gram at the end of the text that is looked up in what came before."""
PAUSE = 32
"""Steps without a draft after drafts that were mostly rejected."""
CHUNK = 512
"""Tokens of a prompt that a draft model prefills at once."""


class Drafter(Protocol):
    """Proposes draft tokens for a text, and is told how many of them the model accepted."""

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow `ids`."""

    def learn(self, drafted: int, accepted: int) -> None:
        """Take note of how many tokens were drafted and how many of them accepted."""


class DraftLength:
    """How many tokens to draft: doubled when all were accepted, halved when most were rejected, and none for a while when
    even single ones were. Checking a draft token costs as much as a token of a prompt."""

    def __init__(self, size: int = 4) -> None:
        self.size, self.pause = size, 0

    def next(self, most: int) -> int:
        """How many tokens to draft in this step, at most `most`."""
        if self.pause:
            self.pause -= 1
            return 0
        return min(self.size, most)

    def learn(self, drafted: int, accepted: int) -> None:
        """Take note of how many tokens were drafted and how many of them accepted."""
        if accepted == drafted:
            self.size = min(MAX_DRAFT, 2 * self.size)
        elif 2 * accepted < drafted:
            self.size //= 2
            if self.size == 0:
                self.size, self.pause = 1, PAUSE


class PromptLookup:
    """Drafts what followed the last occurrence of the n-gram with which the text ends (prompt lookup decoding,
    github.com/apoorvumang/prompt-lookup-decoding)."""

    def __init__(self) -> None:
        self.places: dict[tuple[int, ...], int] = {}
        self.known = 0
        self.length = DraftLength()

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow `ids`."""
        self._index(ids)
        if count := self.length.next(most):
            for length in range(min(MAX_NGRAM, len(ids)), MIN_NGRAM - 1, -1):
                place = self.places.get(tuple(ids[-length:]))
                if place is not None:
                    return list(ids[place : place + count])
        return []

    def learn(self, drafted: int, accepted: int) -> None:
        """Take note of how many tokens were drafted and how many of them accepted."""
        self.length.learn(drafted, accepted)

    def _index(self, ids: Sequence[int]) -> None:
        """Remember where each n-gram was last followed by a token: all but the one at the end of the text."""
        for end in range(max(self.known, MIN_NGRAM), len(ids)):
            for length in range(MIN_NGRAM, min(MAX_NGRAM, end) + 1):
                self.places[tuple(ids[end - length : end])] = end
        self.known = max(self.known, len(ids))


class DraftModel:
    """Drafts the most probable tokens of a smaller model with the same vocabulary (speculative decoding, arXiv:2211.17192).

    A draft token is accepted if the large model chooses the same one, sampled or not: answers are those of the large model
    alone.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime, self.sequence = runtime, runtime.sequence()
        self.read: list[int] = []  # what the sequence holds
        self.length = DraftLength()

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow `ids`."""
        count = min(self.length.next(most), self.runtime.spec.context - len(ids))
        if count <= 0:
            return []
        limit = min(len(self.read), len(ids) - 1)
        shared = next((place for place in range(limit) if self.read[place] != ids[place]), limit)
        self.sequence.rewind(shared)
        made: list[int] = []
        unread = list(ids[self.sequence.length :])
        while len(made) < count:
            for start in range(0, len(unread), CHUNK):
                chunk = unread[start : start + CHUNK]
                logits = self.runtime.step([(self.sequence, chunk)], [len(chunk) - 1], greatest=1)
            made.append(int(logits[0].argmax()))
            unread = made[-1:]
        self.read = [*ids, *made[:-1]]
        return made

    def learn(self, drafted: int, accepted: int) -> None:
        """Take note of how many tokens were drafted and how many of them accepted."""
        self.length.learn(drafted, accepted)
