"""Byte-pair encoding: how a word's symbols merge, and words that were cut before.

Source: Sennrich, Haddow and Birch, arXiv:1508.07909; which pair is the best is up to the vocabulary.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

_SHORT, _MANY = 30, 50_000  # characters of a word whose ids are kept, and how many such words


def merged(symbols: Iterable[str], rank: Callable[[str, str], float | None]) -> list[str]:
    """Neighbours merged pairwise, the pair of the least `rank` first (leftmost among equals), until none has one."""
    parts = list(symbols)  # "" where one has merged into the part before
    before, after = list(range(-1, len(parts) - 1)), [*range(1, len(parts)), -1]
    waiting: list[tuple[float, int, int, str]] = []

    def consider(left: int, right: int) -> None:
        """Put two neighbours among the candidates, if they may merge."""
        if left >= 0 and right >= 0 and (place := rank(parts[left], parts[right])) is not None:
            heapq.heappush(waiting, (place, left, right, parts[left] + parts[right]))

    for i in range(len(parts) - 1):
        consider(i, i + 1)
    while waiting:
        _, left, right, union = heapq.heappop(waiting)
        # A candidate is stale if either half has been merged into something else meanwhile.
        if not parts[left] or not parts[right] or parts[left] + parts[right] != union:
            continue
        parts[left], parts[right] = union, ""
        after[left] = after[right]
        if after[right] >= 0:
            before[after[right]] = left
        consider(before[left], left)
        consider(left, after[left])
    return [part for part in parts if part]


class Words(ABC):
    """Ids of words, of which short ones are cut once, since texts repeat them."""

    def __init__(self) -> None:
        self._known: dict[str, list[int]] = {}

    @abstractmethod
    def word_ids(self, word: str) -> list[int]:
        """Ids of a word."""

    def ids(self, words: Iterable[str]) -> list[int]:
        """Ids of words in a row."""
        found: list[int] = []
        for word in words:
            ids = self._known.get(word)
            if ids is None:
                ids = self.word_ids(word)
                if len(word) <= _SHORT:
                    if len(self._known) >= _MANY:
                        self._known.clear()
                    self._known[word] = ids
            found += ids
        return found
