"""SentencePiece's byte-pair encoding from a vocabulary with scores, as GGUF files carry it.

Characters are merged pairwise, the pair whose union has the best score first (leftmost among equals), until no union is a
piece; what is left over is spelled in bytes (`<0xE2>`). Source: Kudo and Richardson, arXiv:1808.06226, and the behaviour of
llama.cpp, whose ids these are. Written here because building a merge table for a library from 262,144 scored pieces would
cost seconds at every start.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

SPACE = "▁"


class SentencePiece:
    """Encodes plain text (no special tokens)."""

    def __init__(self, pieces: Mapping[str, int], scores: Sequence[float], unknown: int | None) -> None:
        self.pieces, self.scores, self.unknown = pieces, scores, unknown

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, in which spaces become `▁`."""
        symbols: list[str | None] = list(text.replace(" ", SPACE))
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
