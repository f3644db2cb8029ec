"""Byte-pair encoding: the merging of a word's symbols, and a cache of encoded words.

Source: Sennrich, Haddow and Birch, arXiv:1508.07909; the ranks of pairs are the vocabulary's.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

_MAX_CACHED_LENGTH, _MAX_CACHED = 30, 50_000  # characters of a cached word, and number of cached words


def merged(symbols: Iterable[str], rank: Callable[[str, str], float | None]) -> list[str]:
    """Symbols merged pairwise, the pair of the lowest `rank` first (leftmost among equals), until no pair has a rank."""
    parts = list(symbols)  # "" for a symbol that was merged into the part before it
    before, after = list(range(-1, len(parts) - 1)), [*range(1, len(parts)), -1]
    waiting: list[tuple[float, int, int, str]] = []

    def consider(left: int, right: int) -> None:
        """Add two neighbours to the candidates, if they have a rank."""
        if left >= 0 and right >= 0 and (place := rank(parts[left], parts[right])) is not None:
            heapq.heappush(waiting, (place, left, right, parts[left] + parts[right]))

    for i in range(len(parts) - 1):
        consider(i, i + 1)
    while waiting:
        _, left, right, union = heapq.heappop(waiting)
        # A candidate is stale if one of its parts has been merged with another meanwhile.
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
    """An encoder of words, which caches the ids of short words."""

    def __init__(self) -> None:
        self._known: dict[str, list[int]] = {}

    @abstractmethod
    def word_ids(self, word: str) -> list[int]:
        """Ids of a word."""

    def ids(self, words: Iterable[str]) -> list[int]:
        """Token ids of consecutive words."""
        found: list[int] = []
        for word in words:
            ids = self._known.get(word)
            if ids is None:
                ids = self.word_ids(word)
                if len(word) <= _MAX_CACHED_LENGTH:
                    if len(self._known) >= _MAX_CACHED:
                        self._known.clear()
                    self._known[word] = ids
            found += ids
        return found
