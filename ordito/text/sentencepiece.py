"""SentencePiece: normalization of text, splitting into words that begin with `▁`, and segmentation of words into pieces.

The algorithm of segmentation is `MergedPieces` (BPE with scores) here, or `LikelyPieces` (unigram) in unigram.py. Source: Kudo
and Richardson, arXiv:1808.06226, and the sentencepiece library and llama.cpp, which give the same ids. It is implemented here
because building a merge table for the `tokenizers` library from 262,144 scored pieces would take seconds at every start, and
because that library only approximates the normalization.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from ordito.strings import Places, Strings
from ordito.text.charsmap import Charsmap
from ordito.text.matcher import Matcher
from ordito.text.merging import Words, merged

SPACE = "▁"


@dataclass(frozen=True)
class Normalization:
    """The normalization of a text before segmentation, with the names of SentencePiece's `NormalizerSpec`."""

    precompiled_charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = False
    escape_whitespaces: bool = True
    treat_whitespace_as_suffix: bool = False

    @cached_property
    def charsmap(self) -> Charsmap | None:
        """The character map, or None, as in most BPE vocabularies."""
        return Charsmap(self.precompiled_charsmap) if self.precompiled_charsmap else None

    def __call__(self, text: str, defined: Matcher, dummy: bool = True) -> str:
        """The normalized text. Matches of `defined` are not changed by the character map; `dummy=False` adds no `▁`."""
        blank = text == ""
        if self.charsmap is not None:
            names = {id: name for name, id in defined.names.items()}
            parts = defined.split(text)
            text = "".join(self.charsmap.replace(part) if isinstance(part, str) else names[part] for part in parts)
        space = SPACE if self.escape_whitespaces else " "
        if self.remove_extra_whitespaces:
            text = re.sub(" +", " ", text).lstrip(" ").replace(" ", space).rstrip(space)
            blank = text == ""
        mark = space if dummy and self.add_dummy_prefix and not blank else ""
        text = text.replace(" ", space)
        return text + mark if self.treat_whitespace_as_suffix else mark + text


class Pieces(Words):
    """An encoder of normalized text to scored pieces.

    Characters without a piece become `unknown`, or the `byte_pieces` of their UTF-8 bytes (`<0xE2>`, ...) if there are some.
    """

    def __init__(
        self,
        pieces: Mapping[str, int],
        scores: Sequence[float],
        unknown: int | None,
        byte_pieces: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.pieces, self.scores, self.unknown = pieces, scores, unknown
        self.byte_pieces = byte_pieces or {}

    def encode(self, text: str) -> list[int]:
        """Token ids of a normalized text. Consecutive unknown characters become one unknown token."""
        ids = self.ids(self._boundary.split(text))
        if self.unknown is None or self.unknown not in ids:
            return ids
        return [id for id, run in groupby(ids) for _ in (run if id != self.unknown else [id])]

    @abstractmethod
    def segment(self, word: str) -> list[str]:
        """A word as pieces, and single characters without a piece."""

    @cached_property
    def _boundary(self) -> re.Pattern[str]:
        """The boundaries of words, which can be segmented independently.

        These are before each `▁`, except after the few characters that precede a `▁` within some piece (Gemma: `>▁</`).
        """
        strings = self.pieces.strings if isinstance(self.pieces, Places) else Strings(self.pieces)
        joining = set(strings.characters_before(SPACE)) - {SPACE}
        return re.compile(f"(?<=[^{SPACE}{''.join(map(re.escape, sorted(joining)))}])(?={SPACE})")

    def word_ids(self, word: str) -> list[int]:
        """Ids of a word's pieces."""
        return [id for piece in self.segment(word) for id in self._ids(piece)]

    def _ids(self, piece: str) -> list[int]:
        """The piece itself, or its bytes, or the unknown token."""
        if (id := self.pieces.get(piece)) is not None:
            return [id]
        spelled = [self.byte_pieces.get(byte, self.unknown) for byte in piece.encode("utf-8")]
        return [id for id in (spelled if self.byte_pieces else [self.unknown]) if id is not None]


class MergedPieces(Pieces):
    """BPE with scores: two neighbours may merge if together they are a piece, the one of the highest score first."""

    def segment(self, word: str) -> list[str]:
        """A word as pieces, and single characters without a piece."""
        return merged(word, self._rank)

    def _rank(self, left: str, right: str) -> float | None:
        piece = self.pieces.get(left + right)
        return None if piece is None else -self.scores[piece]
