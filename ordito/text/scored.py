"""Tokenizers of SentencePiece's scored pieces, from its model files or from GGUF."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Regex, decoders, models, normalizers
from tokenizers import Tokenizer as Library

from ordito.errors import TokenizerError
from ordito.strings import Places
from ordito.text.library import added_tokens, write_library
from ordito.text.matcher import Matcher
from ordito.text.sentencepiece import SPACE, MergedPieces, Normalization, Pieces
from ordito.text.tokenizer import Special, Tokenizer
from ordito.text.unigram import LikelyPieces
from ordito.text.vocabulary import Vocabulary

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of pieces. User-defined ones are matched whole in any text, control tokens only in text of templates."""

Algorithm = Literal["bpe", "unigram"]


@dataclass(frozen=True)
class Scored:
    """Pieces by id, with their scores and types."""

    algorithm: Algorithm
    pieces: Sequence[str]
    scores: Sequence[float]
    types: Sequence[int]
    unknown: int | None = None
    normalization: Normalization = field(default_factory=Normalization)

    def __post_init__(self) -> None:
        if not np.isfinite(np.asarray(self.scores, np.float64)).all():
            raise TokenizerError("the vocabulary's scores hold something that is no finite number")

    def engine(self, vocabulary: Vocabulary) -> Pieces:
        """The encoder of text to pieces of `vocabulary`; control tokens are never among them, whatever their type is."""
        kinds = (NORMAL, USER_DEFINED, UNUSED) if self.algorithm == "bpe" else (NORMAL, USER_DEFINED)
        known = {byte: id for byte in range(256) if (id := vocabulary.ids.get(f"<0x{byte:02X}>")) is not None}
        unwritten = frozenset(np.flatnonzero(~np.isin(self.types, kinds)).tolist()) | vocabulary.control
        if self.algorithm == "bpe" and len(vocabulary.ids) == len(self.pieces):
            return MergedPieces(Places(vocabulary.ids.strings, unwritten), self.scores, self.unknown, known)
        # Of two equal pieces, the first that is written.
        pieces = {piece: id for id, piece in reversed(list(enumerate(self.pieces))) if id not in unwritten}
        if self.algorithm == "bpe":
            return MergedPieces(pieces, self.scores, self.unknown, known)
        return LikelyPieces(pieces, self.scores, self.unknown, known, self.ids(USER_DEFINED))

    def ids(self, *types: int) -> frozenset[int]:
        """The pieces of some types."""
        return frozenset(np.flatnonzero(np.isin(self.types, types)).tolist())


def scored_tokenizer(
    scored: Scored,
    vocabulary: Vocabulary,
    special: Special,
    *,
    inline: Set[int] = frozenset(),
    marks_first_only: bool = False,
    chat_template: str | None = None,
    write: Callable[[Path, Tokenizer], None] | None = None,
) -> Tokenizer:
    """A tokenizer of scored pieces.

    The vocabulary's added tokens cut the text, and what is between them is encoded as a text of its own, with a dummy
    prefix of its own (only at the very start with `marks_first_only`). `inline` tokens are matched within such a text.
    """
    engine = scored.engine(vocabulary)
    normalize = scored.normalization

    def matcher(ids: Set[int]) -> Matcher:
        names = {vocabulary.tokens[id]: id for id in sorted(ids, reverse=True)}
        return Matcher(names, vocabulary.lstrip, vocabulary.rstrip)

    outer = vocabulary.added - inline
    every, defined, inside = matcher(outer), matcher(outer - vocabulary.control), matcher(inline - vocabulary.control)

    def encode(text: str, dummy: bool) -> list[int]:
        text = normalize(text, inside, dummy)
        if scored.algorithm == "unigram":
            return engine.encode(text)
        parts = ([part] if isinstance(part, int) else engine.encode(part) for part in inside.split(text))
        return [id for part in parts for id in part]

    def cut(text: str, parse_special: bool) -> list[int]:
        ids: list[int] = []
        for i, part in enumerate((every if parse_special else defined).split(text)):
            ids += [part] if isinstance(part, int) else encode(part, i == 0 or not marks_first_only)
        return ids

    return Tokenizer(
        vocabulary,
        cut,
        special,
        strips_space=normalize.add_dummy_prefix,
        chat_template=chat_template,
        write=write or (lambda folder, tokenizer: write_library(folder, tokenizer, scored_library(scored, vocabulary))),
        engine=scored,
    )


def scored_library(scored: Scored, vocabulary: Vocabulary) -> Library:
    """The same vocabulary for the `tokenizers` library: a unigram model, or BPE with a merge table.

    In rare cases the library's normalization differs from SentencePiece's: it applies the character map to whole graphemes.
    """
    if scored.algorithm == "unigram":
        model = models.Unigram(list(zip(scored.pieces, scored.scores, strict=True)), scored.unknown, bool(scored.ids(BYTE)))
        library = Library(model)
    else:
        merges = _merges(scored, vocabulary)
        library = Library(models.BPE(dict(vocabulary.ids), merges, fuse_unk=True, byte_fallback=True))
    how = scored.normalization
    steps: list[Any] = [normalizers.Precompiled(how.precompiled_charsmap)] if how.precompiled_charsmap else []
    if how.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend(SPACE)] if how.add_dummy_prefix else []
    library.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    back: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    library.decoder = decoders.Sequence([*back, *([decoders.Strip(" ", 1, 0)] if how.add_dummy_prefix else [])])
    library.add_tokens(added_tokens(vocabulary))
    return library


def _merges(scored: Scored, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """A merge for each way to split a piece into two pieces, the best piece first."""
    ids = vocabulary.ids
    merges = []
    for piece, id in ids.items():
        if id not in vocabulary.added:
            for cut in range(1, len(piece)):
                left, right = ids.get(piece[:cut]), ids.get(piece[cut:])
                if left is not None and right is not None:
                    merges.append((-scored.scores[id], left, right, (piece[:cut], piece[cut:])))
    merges.sort(key=lambda merge: merge[:3])
    return [pair for *_, pair in merges]
