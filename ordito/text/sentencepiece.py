"""SentencePiece's byte-pair encoding from a vocabulary with scores, as GGUF files carry it.

Characters are merged pairwise, the pair whose union has the best score first (leftmost among equals), until no union is a
piece; what is left over is spelled in bytes (`<0xE2>`). Source: Kudo and Richardson, arXiv:1808.06226, and the behaviour of
llama.cpp, whose ids these are. Written here because building a merge table for a library from 262,144 scored pieces would
cost seconds at every start.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping, Sequence
from functools import cached_property

SPACE = "▁"
_ACROSS = re.compile(f"[^{SPACE}\0]{SPACE}")
_SHORT, _MANY = 30, 50_000  # characters of a word whose ids are kept, and how many such words


class SentencePiece:
    """Encodes plain text (no special tokens)."""

    def __init__(self, pieces: Mapping[str, int], scores: Sequence[float], unknown: int | None) -> None:
        self.pieces, self.scores, self.unknown = pieces, scores, unknown
        self._words: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, in which spaces become `▁`."""
        text = text.replace(" ", SPACE)
        return [id for word in self._cut.split(text) if word for id in self._remembered(word)]

    @cached_property
    def _cut(self) -> re.Pattern[str]:
        """Where one word ends and the next begins, so that each can be merged alone.

        That is before a `▁`, except after those few characters that some piece has before a `▁` (Gemma: `>▁</`).
        """
        joining = {found[0][0] for found in _ACROSS.finditer("\0".join(self.pieces))}
        return re.compile(f"(?<=[^{SPACE}{''.join(map(re.escape, sorted(joining)))}])(?={SPACE})")

    def _remembered(self, word: str) -> list[int]:
        """Ids of a word; those of short words are kept, since texts repeat them."""
        ids = self._words.get(word)
        if ids is None:
            ids = self._merge(word)
            if len(word) <= _SHORT:
                if len(self._words) >= _MANY:
                    self._words.clear()
                self._words[word] = ids
        return ids

    def _merge(self, text: str) -> list[int]:
        symbols: list[str | None] = list(text)
        before, after = list(range(-1, len(symbols) - 1)), [*range(1, len(symbols)), -1]
        waiting: list[tuple[float, int, int, str]] = []

        def consider(left: int, right: int) -> None:
            """Put the union of two neighbours among the candidates, if it is a piece."""
            if left >= 0 and right >= 0:
                union = f"{symbols[left]}{symbols[right]}"
                if (piece := self.pieces.get(union)) is not None:
                    heapq.heappush(waiting, (-self.scores[piece], left, right, union))

        for i in range(len(symbols) - 1):
            consider(i, i + 1)
        while waiting:
            _, left, right, union = heapq.heappop(waiting)
            # A candidate is stale if either half has been merged into something else meanwhile.
            if symbols[left] is None or symbols[right] is None or f"{symbols[left]}{symbols[right]}" != union:
                continue
            symbols[left], symbols[right] = union, None
            after[left] = after[right]
            if after[right] >= 0:
                before[after[right]] = left
            consider(before[left], left)
            consider(left, after[left])
        return [id for symbol in symbols if symbol is not None for id in self._ids(symbol)]

    def _ids(self, symbol: str) -> list[int]:
        """The piece itself, or its bytes, or the unknown token."""
        if (piece := self.pieces.get(symbol)) is not None:
            return [piece]
        spelled = [self.pieces.get(f"<0x{byte:02X}>", self.unknown) for byte in symbol.encode("utf-8")]
        return [id for id in spelled if id is not None]
