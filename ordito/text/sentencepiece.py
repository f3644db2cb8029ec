"""SentencePiece's way from text to pieces: normalization, then words of `▁`, then the pieces of each word.

How a word is cut depends on the algorithm: `MergedPieces` here (byte-pair encoding with scores), `LikelyPieces` in
unigram.py. Source: Kudo and Richardson, arXiv:1808.06226, and the behaviour of the sentencepiece library and of llama.cpp,
whose ids these are. Written here because building a merge table for a library from 262,144 scored pieces would cost seconds
at every start, and because the library approximates the normalization.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np

from ordito.text.charsmap import Charsmap
from ordito.text.matcher import Matcher
from ordito.text.merging import Words, merged

SPACE = "▁"


@dataclass(frozen=True)
class Normalization:
    """What happens to a text before pieces are looked for in it, under the names of SentencePiece's `NormalizerSpec`."""

    precompiled_charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = False
    escape_whitespaces: bool = True
    treat_whitespace_as_suffix: bool = False

    @cached_property
    def charsmap(self) -> Charsmap | None:
        """The map of characters; most byte-pair vocabularies have none."""
        return Charsmap(self.precompiled_charsmap) if self.precompiled_charsmap else None

    def __call__(self, text: str, defined: Matcher, dummy: bool = True) -> str:
        """The normalized text, in which what `defined` finds stands as it was; `dummy=False` adds no prefix or suffix."""
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
    """A vocabulary of scored pieces, which encodes normalized text.

    `unknown` stands for what no piece spells, unless the vocabulary has `byte_pieces` (`<0xE2>` and so on, by byte).
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
        """Token ids of a normalized text. Characters in a row that cannot be spelled are one unknown token."""
        ids = self.ids(self._cut.split(text))
        if self.unknown is None or self.unknown not in ids:
            return ids
        return [id for id, run in groupby(ids) for _ in (run if id != self.unknown else [id])]

    @abstractmethod
    def segment(self, word: str) -> list[str]:
        """A word, cut into pieces and into characters that no piece spells."""

    @cached_property
    def _cut(self) -> re.Pattern[str]:
        """Where one word ends and the next begins, so that each can be cut up alone.

        That is before a `▁`, except after those few characters that some piece has before a `▁` (Gemma: `>▁</`).
        """
        characters = np.frombuffer("\0".join(self.pieces).encode("utf-32-le", "replace"), np.uint32)
        joining = set(map(chr, set(characters[:-1][characters[1:] == ord(SPACE)].tolist()))) - {SPACE, "\0"}
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
    """Byte-pair encoding: two neighbours may merge if their union is a piece, that of the best score first."""

    def segment(self, word: str) -> list[str]:
        """A word, cut into pieces and into characters that no piece spells."""
        return merged(word, self._rank)

    def _rank(self, left: str, right: str) -> float | None:
        piece = self.pieces.get(left + right)
        return None if piece is None else -self.scores[piece]
