"""Byte-level byte-pair vocabularies (GPT-2 and its many heirs).

The `tokenizers` library cuts text into words. How words merge is read here from the table that a file holds: to copy 280,000
merges into the library would take most of the time from a cold start to the first token, and their memory twice.
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
    """A vocabulary spelled in GPT-2's alphabet of bytes, and how it cuts text.

    `ranks` are those of merges: of `left right`, with what is `between` the halves, or of their unions where that is empty.
    """

    def __init__(self, vocabulary: Vocabulary, ranks: Mapping[str, int], pre: PreTokenizer, between: str = " ") -> None:
        super().__init__()
        self.vocabulary, self.ranks, self.pre, self.between = vocabulary, ranks, pre, between
        self._splitter = pre_tokenizers.Sequence(_splits(pre))
        self._normalizer = normalizers.NFC() if pre.nfc else None
        self._every, self._typed = map(self._matcher, (vocabulary.added, vocabulary.added - vocabulary.control))

    def tokenizer(self, special: Special, chat_template: str | None) -> Tokenizer:
        """It as a tokenizer, which the library writes."""
        return Tokenizer(
            self.vocabulary,
            self.encode,
            special,
            chat_template=chat_template,
            write=lambda folder, tokenizer: write_library(folder, tokenizer, self.library()),
            engine=self,
        )

    def encode(self, text: str, parse_special: bool) -> list[int]:
        """Token ids of a text, in which control tokens are read only with `parse_special`."""
        parts = (self._every if parse_special else self._typed).split(text)
        with as_tokenizer_error("the vocabulary cannot spell this text"):
            return [id for part in parts for id in ([part] if isinstance(part, int) else self.ids(self._words(part)))]

    def word_ids(self, word: str) -> list[int]:
        """Ids of a word. A byte that has no token is left out."""
        ids, symbols = self.vocabulary.ids, spelled(word.encode())
        if self.pre.ignore_merges and symbols in ids:
            return [ids[symbols]]
        return [ids[part] for part in merged(filter(ids.__contains__, symbols), self._rank)]

    def library(self) -> Library:
        """The same vocabulary for the library. Raises `TokenizerError` where its merges do not hold together."""
        library = library_of(self.vocabulary.ids, self._pairs(), self.pre)
        library.add_tokens(added_tokens(self.vocabulary))
        return library

    def _matcher(self, added: frozenset[int]) -> Matcher:
        tokens, ids = self.vocabulary.tokens, self.vocabulary.ids
        return Matcher({tokens[id]: ids[tokens[id]] for id in added})

    def _words(self, text: str) -> Iterable[str]:
        if self._normalizer is not None:
            text = self._normalizer.normalize_str(text)
        if len(text) < LONG:
            return [word for word, _ in self._splitter.pre_tokenize_str(text)]
        # The library lets other threads run in batches only, and those are for whole tokenizers.
        (found,) = self._in_batches.encode_batch([text], add_special_tokens=False)
        return [text[start:end] for start, end in found.offsets]

    @cached_property
    def _in_batches(self) -> Library:
        """A tokenizer whose tokens are words, whatever they are."""
        library = Library(models.WordLevel({"": 0}, ""))
        library.pre_tokenizer = self._splitter
        return library

    def _rank(self, left: str, right: str) -> int | None:
        return self.ranks.get(f"{left}{self.between}{right}")

    def _pairs(self) -> list[tuple[str, str]]:
        """The merges, best first.

        Of a table of unions every way to cut one in two is listed; only one of them ever comes up, as what happens within a
        token does not depend on what stands around it.
        """
        best = sorted(self.ranks, key=self.ranks.__getitem__)
        if self.between:
            return [halves(merge) for merge in best]
        cuts = ((union[:cut], union[cut:]) for union in best for cut in range(1, len(union)))
        return [(left, right) for left, right in cuts if left in self.ranks and right in self.ranks]


def library_of(ids: Mapping[str, int], merges: Sequence[tuple[str, str]], pre: PreTokenizer) -> Library:
    """A vocabulary in the library. Raises `TokenizerError` where its merges do not hold together."""
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
    """The halves of a merge `left right`; where the left one begins with a space, the next one is between them."""
    left, space, right = merge[1:].partition(" ")
    if not space:
        raise TokenizerError(f"GGUF metadata: tokenizer.ggml.merges has {merge[:40]!r}, expected a pair: 'left right'")
    return merge[:1] + left, right


def spelled(token: bytes) -> str:
    """The bytes of a token in GPT-2's alphabet."""
    return token.decode("latin-1").translate(_ALPHABET)
