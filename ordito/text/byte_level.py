"""Byte-level byte-pair vocabularies (GPT-2 and its many heirs), run by the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

from ordito.text.library import as_tokenizer_error
from ordito.text.pretokenizers import PreTokenizer
from ordito.text.vocabulary import BYTES

_CHARACTERS = {byte: character for character, byte in BYTES.items()}


def byte_level(ids: Mapping[str, int], merges: Sequence[tuple[str, str]], pre: PreTokenizer) -> Library:
    """A vocabulary spelled in GPT-2's alphabet of bytes."""
    with as_tokenizer_error("the vocabulary does not hold together"):
        library = Library(models.BPE(dict(ids), list(merges), ignore_merges=pre.ignore_merges))
    library.normalizer = normalizers.NFC() if pre.nfc else None
    with as_tokenizer_error("the pattern of the vocabulary cannot be used"):
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.patterns]
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    library.decoder = decoders.ByteLevel()
    return library


def spelled(token: bytes) -> str:
    """The bytes of a token in GPT-2's alphabet."""
    return "".join(_CHARACTERS[byte] for byte in token)


def merges_of_ranks(ranks: Mapping[bytes, int]) -> list[tuple[str, str]]:
    """The merges of a vocabulary that has only ranks (tiktoken), best rank first.

    tiktoken merges two neighbours if their union has a rank. Every way to cut a token in two is listed; only one of them
    ever comes up, as what happens within a token does not depend on what stands around it.
    """
    names = {token: spelled(token) for token in ranks}
    return [
        (names[token[:cut]], names[token[cut:]])
        for token in sorted(ranks, key=ranks.__getitem__)
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]
