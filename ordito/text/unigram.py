"""SentencePiece's unigram language model: the most probable segmentation of a word into pieces.

Scores are log probabilities; the best segmentation of a word's first n characters follows from those of shorter prefixes
(Viterbi). Source: Kudo, arXiv:1804.10959, and the behaviour of the sentencepiece library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from functools import cached_property
from itertools import pairwise

from ordito.text.sentencepiece import Pieces

_PENALTY = 10.0  # the score of an unknown character is lower than the lowest score of a piece by this


class LikelyPieces(Pieces):
    """Encodes with a unigram vocabulary. User-defined pieces get scores so high that they are always chosen."""

    def __init__(
        self,
        pieces: Mapping[str, int],
        scores: Sequence[float],
        unknown: int | None,
        byte_pieces: Mapping[int, int] | None = None,
        defined: Set[int] = frozenset(),
    ) -> None:
        super().__init__(pieces, scores, unknown, byte_pieces)
        normal = [scores[id] for id in pieces.values() if id not in defined] or [0.0]
        self._unlikely = min(normal) - _PENALTY
        won = {id: max(normal) * len(piece.encode("utf-8")) - 0.1 for piece, id in pieces.items() if id in defined}
        self.scores = [won.get(id, score) for id, score in enumerate(scores)]

    def segment(self, word: str) -> list[str]:
        """A word as pieces, and single characters without a piece."""
        best: list[float | None] = [0.0, *[None] * len(word)]
        begins = [0] * (len(word) + 1)
        for start in range(len(word)):
            so_far = best[start]
            assert so_far is not None, "every character can be a piece of its own"
            lengths = self._lengths.get(word[start], ())
            for end in [start + length for length in lengths if start + length <= len(word)]:
                id = self.pieces.get(word[start:end])
                if id is not None:
                    self._better(best, begins, start, end, so_far + self.scores[id])
            if word[start] not in self.pieces:
                self._better(best, begins, start, start + 1, so_far + self._unlikely)
        cuts = [len(word)]
        while cuts[-1]:
            cuts.append(begins[cuts[-1]])
        return [word[start:end] for end, start in pairwise(cuts)][::-1]

    @staticmethod
    def _better(best: list[float | None], begins: list[int], start: int, end: int, score: float) -> None:
        """Update the best segmentation up to `end` by one whose last piece begins at `start`, if its score is higher."""
        known = best[end]
        if known is None or score > known:
            best[end], begins[end] = score, start

    @cached_property
    def _lengths(self) -> dict[str, list[int]]:
        """First character -> the lengths of the pieces that begin with it."""
        lengths: dict[str, set[int]] = {}
        for piece in self.pieces:
            if piece:
                lengths.setdefault(piece[0], set()).add(len(piece))
        return {first: sorted(found) for first, found in lengths.items()}
