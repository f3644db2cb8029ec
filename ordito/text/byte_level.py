"""Byte-level BPE (GPT-2 and its many successors).

The `tokenizers` library splits text into words. Merging is done here, with the merge table of the file: copying 280,000 merges
into the library would take most of the time from a cold start to the first token, and twice the memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

from ordito.errors import TokenizerError
from ordito.text.library import LONG, added_tokens, as_tokenizer_error, write_library
from ordito.text.matcher import Matcher
from ordito.text.merging import Words, merged
from ordito.text.pretokenizers import PreTokenizer
from ordito.text.tokenizer import Special, Tokenizer
from ordito.text.vocabulary import BYTES, Vocabulary

_ALPHABET = {byte: character for character, byte in BYTES.items()}


class ByteLevel(Words):
    """The BPE encoder of a vocabulary that is spelled in GPT-2's alphabet of bytes.

    `ranks` are the ranks of merges, keyed by the left and right part joined by `between`: "left right", or, if it is empty,
    the merged token itself (tiktoken).
    """

    def __init__(self, vocabulary: Vocabulary, ranks: Mapping[str, int], pre: PreTokenizer, between: str = " ") -> None:
        super().__init__()
        self.vocabulary, self.ranks, self.pre, self.between = vocabulary, ranks, pre, between
        self._splitter = pre_tokenizers.Sequence(_splits(pre))
        self._normalizer = normalizers.NFC() if pre.nfc else None
        self._every, self._typed = map(self._matcher, (vocabulary.added, vocabulary.added - vocabulary.control))

    def tokenizer(self, special: Special, chat_template: str | None) -> Tokenizer:
        """The tokenizer of this vocabulary, whose files the library writes."""
        return Tokenizer(
            self.vocabulary,
            self.encode,
            special,
            chat_template=chat_template,
            write=lambda folder, tokenizer: write_library(folder, tokenizer, self.library()),
            engine=self,
        )

    def encode(self, text: str, parse_special: bool) -> list[int]:
        """Token ids of a text. Control tokens in it are parsed only with `parse_special`."""
        parts = (self._every if parse_special else self._typed).split(text)
        with as_tokenizer_error("the vocabulary cannot spell this text"):
            return [id for part in parts for id in ([part] if isinstance(part, int) else self.ids(self._words(part)))]

    def word_ids(self, word: str) -> list[int]:
        """Token ids of a word. A byte without a token is left out."""
        ids, symbols = self.vocabulary.ids, spelled(word.encode())
        if self.pre.ignore_merges and symbols in ids:
            return [ids[symbols]]
        return [ids[part] for part in merged(filter(ids.__contains__, symbols), self._rank)]

    def library(self) -> Library:
        """The same vocabulary for the library. Raises `TokenizerError` if its merges are inconsistent."""
        library = library_of(self.vocabulary.ids, self._pairs(), self.pre)
        library.add_tokens(added_tokens(self.vocabulary))
        return library

    def _matcher(self, added: frozenset[int]) -> Matcher:
        tokens, ids = self.vocabulary.tokens, self.vocabulary.ids
        return Matcher({tokens[id]: ids[tokens[id]] for id in added}, self.vocabulary.lstrip, self.vocabulary.rstrip)

    def _words(self, text: str) -> Iterable[str]:
        if self._normalizer is not None:
            text = self._normalizer.normalize_str(text)
        if len(text) < LONG:
            return [word for word, _ in self._splitter.pre_tokenize_str(text)]
        # The library releases the GIL only when it encodes batches, which only whole tokenizers do.
        (found,) = self._in_batches.encode_batch([text], add_special_tokens=False)
        return [text[start:end] for start, end in found.offsets]

    @cached_property
    def _in_batches(self) -> Library:
        """A library tokenizer that only splits text into words."""
        library = Library(models.WordLevel({"": 0}, ""))
        library.pre_tokenizer = self._splitter
        return library

    def _rank(self, left: str, right: str) -> int | None:
        return self.ranks.get(f"{left}{self.between}{right}")

    def _pairs(self) -> list[tuple[str, str]]:
        """The merges as pairs, best first.

        For a table keyed by merged tokens, all ways to split one into two tokens are listed. Only one of them ever occurs,
        because merging within a token does not depend on its surroundings.
        """
        best = sorted(self.ranks, key=self.ranks.__getitem__)
        if self.between:
            return [halves(merge) for merge in best]
        cuts = ((union[:cut], union[cut:]) for union in best for cut in range(1, len(union)))
        return [(left, right) for left, right in cuts if left in self.ranks and right in self.ranks]


def library_of(ids: Mapping[str, int], merges: Sequence[tuple[str, str]], pre: PreTokenizer) -> Library:
    """A library tokenizer of the vocabulary. Raises `TokenizerError` if its merges are inconsistent."""
    with as_tokenizer_error("the vocabulary does not hold together"):
        library = Library(models.BPE(dict(ids), list(merges), ignore_merges=pre.ignore_merges))
    library.normalizer = normalizers.NFC() if pre.nfc else None
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [*_splits(pre), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    library.decoder = decoders.ByteLevel()
    return library


def _splits(pre: PreTokenizer) -> list[Any]:
    with as_tokenizer_error("the pattern of the vocabulary cannot be used"):
        return [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.patterns]


def halves(merge: str) -> tuple[str, str]:
    """The two parts of a merge "left right"; a space at the beginning belongs to the left one. Raises `TokenizerError`."""
    left, space, right = merge[1:].partition(" ")
    if not space:
        raise TokenizerError(f"GGUF metadata: tokenizer.ggml.merges has {merge[:40]!r}, expected a pair: 'left right'")
    return merge[:1] + left, right


def spelled(token: bytes) -> str:
    """The bytes of a token in GPT-2's alphabet."""
    return token.decode("latin-1").translate(_ALPHABET)
