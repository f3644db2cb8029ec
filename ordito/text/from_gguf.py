"""Tokenizers in GGUF metadata (`tokenizer.ggml.*`): byte-level BPE, SentencePiece (BPE and unigram), WordPiece."""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers

from ordito._core import lost_merge
from ordito.errors import NoTokenizerError, TokenizerError, did_you_mean
from ordito.strings import Places, Strings
from ordito.text.byte_level import ByteLevel, halves
from ordito.text.files import MAX_TOKEN
from ordito.text.library import with_library
from ordito.text.pretokenizers import PRE_TOKENIZERS
from ordito.text.scored import CONTROL, NORMAL, USER_DEFINED, Algorithm, Scored, scored_tokenizer
from ordito.text.sentencepiece import SPACE, Normalization
from ordito.text.tokenizer import Special, Tokenizer
from ordito.text.vocabulary import ENDS, Kind, Vocabulary

STRIPS = {side: f"tokenizer.ordito.{side}" for side in ("lstrip", "rstrip")}
"""The keys in files of Ordito for the tokens that take white space with them, for which GGUF has none."""
_OF_PHI3 = re.compile("phi-?3")
"""llama.cpp's test of `general.name`: in such a file all added tokens but the following take the white space behind them."""
_NO_STRIP_IN_PHI3 = frozenset(["<unk>", "<s>", "<|endoftext|>"])
NO_VOCABULARY = "none"
"""`tokenizer.ggml.model` of a file without a vocabulary."""


def read_metadata(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer in a GGUF file's metadata.

    Raises `NoTokenizerError` if there is none, `TokenizerError` if it is damaged or of an unknown kind.
    """
    if metadata.get("tokenizer.ggml.model", NO_VOCABULARY) == NO_VOCABULARY and "tokenizer.ggml.tokens" not in metadata:
        raise NoTokenizerError("GGUF metadata: there is no tokenizer, expected tokenizer.ggml.model and tokenizer.ggml.tokens")
    fields = _Fields(metadata)
    model = fields.text("model")
    readers = {"gpt2": _byte_level, "llama": _merged, "t5": _unigram, "bert": _wordpiece}
    if model not in readers:
        raise TokenizerError(
            f"GGUF metadata: tokenizer.ggml.model is {model!r}, expected one of {', '.join(readers)}"
            f"{did_you_mean(model, readers)}"
        )
    return readers[model](fields)


class _Fields:
    """The keys `tokenizer.ggml.*`, checked."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.metadata = metadata
        tokens = self.strings("tokens")
        if not tokens:
            raise TokenizerError("GGUF metadata: there is no tokenizer.ggml.tokens, expected a list of tokens")
        self.tokens = tokens
        lengths = list(map(len, tokens)) if tokens.longest > MAX_TOKEN else [0]
        if (longest := max(lengths)) > MAX_TOKEN:
            raise TokenizerError(
                f"GGUF metadata: token {lengths.index(longest)} of tokenizer.ggml.tokens has {longest:,} "
                f"characters, expected at most {MAX_TOKEN:,}"
            )
        types = self.numbers("token_type", NORMAL)
        self.added = frozenset(np.flatnonzero(np.isin(types, (CONTROL, USER_DEFINED))).tolist())
        # Some files give end-of-turn tokens such as `<|im_end|>` the type of user-defined ones; they are control tokens.
        self.control = frozenset(
            i for i in self.added if types[i] == CONTROL or (self.tokens[i] in ENDS and self.tokens[i].startswith("<|"))
        )
        self.lstrip, self.rstrip = (self._strips(key) for key in STRIPS.values())
        template = metadata.get("tokenizer.chat_template")
        self.chat_template = template if isinstance(template, str) else None

    def get(self, key: str, default: Any) -> Any:
        return self.metadata.get(f"tokenizer.ggml.{key}", default)

    def _strips(self, key: str) -> frozenset[int]:
        """The added tokens of one of the keys `STRIPS`. Files of others are recognised as llama.cpp does, by their name."""
        ids = self.metadata.get(key, ())
        if not self.metadata.keys() & STRIPS.values() and key == STRIPS["rstrip"]:
            named = self.metadata.get("general.name")
            if isinstance(named, str) and _OF_PHI3.search(named.lower()):
                ids = [id for id in self.added if self.tokens[id] not in _NO_STRIP_IN_PHI3]
        ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
        if not isinstance(ids, (list, tuple)) or not all(isinstance(id, int) for id in ids):
            raise TokenizerError(f"GGUF metadata: {key} is no list of token ids")
        return self.added & set(ids)

    def vocabulary(self, kind: Kind, tokens: Sequence[str] | None = None) -> Vocabulary:
        return Vocabulary(kind, self.tokens if tokens is None else tokens, self.control, self.added, self.lstrip, self.rstrip)

    def text(self, key: str, default: str = "") -> str:
        value = self.get(key, default)
        if not isinstance(value, str):
            raise TokenizerError(f"GGUF metadata: tokenizer.ggml.{key} is {value!r}, expected a string")
        return value

    def flag(self, key: str, default: bool) -> bool:
        return bool(self.get(key, default))

    def strings(self, key: str) -> Strings | None:
        """A list of strings, or None if there is none."""
        values = self.get(key, None)
        if not isinstance(values, (list, Strings)):
            return None
        try:
            return values if isinstance(values, Strings) else Strings(values)
        except TypeError:
            raise TokenizerError(f"GGUF metadata: tokenizer.ggml.{key} holds something that is no string") from None

    def numbers(self, key: str, default: float) -> NDArray[Any]:
        """One number for each token."""
        values = self.get(key, None)
        if values is None:
            return np.full(len(self.tokens), default)
        if not isinstance(values, (list, np.ndarray)) or len(values) != len(self.tokens):
            got = len(values) if isinstance(values, (list, np.ndarray)) else type(values).__name__
            raise TokenizerError(f"GGUF metadata: tokenizer.ggml.{key} has {got} entries, expected {len(self.tokens)}")
        if isinstance(values, list) and not set(map(type, values)) <= {int, float}:
            raise TokenizerError(f"GGUF metadata: tokenizer.ggml.{key} holds something that is no number")
        return np.asarray(values)

    def id(self, *keys: str) -> int | None:
        """A token id, from the first of `keys` that is there."""
        for key in keys:
            value = self.get(f"{key}_token_id", None)
            if value is not None:
                if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(self.tokens):
                    raise TokenizerError(
                        f"GGUF metadata: tokenizer.ggml.{key}_token_id is {value!r}, expected 0 to {len(self.tokens) - 1}"
                    )
                return value
        return None

    def special(self, adds_bos: bool, adds_eos: bool = False) -> Special:
        bos, eos = self.id("bos", "cls"), self.id("eos", "seperator")
        prefix = (bos,) if self.flag("add_bos_token", adds_bos) and bos is not None else ()
        suffix = (eos,) if self.flag("add_eos_token", adds_eos) and eos is not None else ()
        return Special(bos, eos, self.id("padding"), self.id("unknown"), prefix, suffix)


def _byte_level(fields: _Fields) -> Tokenizer:
    name = fields.text("pre", "default")
    if name not in PRE_TOKENIZERS:
        raise TokenizerError(
            f"GGUF metadata: tokenizer.ggml.pre is {name!r}, which is not known"
            f"{did_you_mean(name, PRE_TOKENIZERS)} (known: {', '.join(PRE_TOKENIZERS)})"
        )
    pre = PRE_TOKENIZERS[name]
    vocabulary = fields.vocabulary("byte-level")
    merges = fields.strings("merges")
    if merges is None:
        raise TokenizerError("GGUF metadata: tokenizer.ggml.merges is not a list of strings, expected one")
    if (lost := lost_merge(merges, fields.tokens)) is not None:
        union = "".join(halves(merges[lost]))[:40]
        raise TokenizerError(
            f"GGUF metadata: tokenizer.ggml.merges gives {union!r}, which is no token: the vocabulary does not hold together"
        )
    return ByteLevel(vocabulary, Places(merges), pre).tokenizer(fields.special(pre.adds_bos), fields.chat_template)


def _wordpiece(fields: _Fields) -> Tokenizer:
    """BERT's vocabulary, which GGUF spells with `▁` at the beginning of words instead of `##` at their continuations."""
    whole = fields.added | {id for id in (fields.id("unknown"), fields.id("mask")) if id is not None}
    tokens = [
        token[1:]
        if token.startswith(SPACE) and i not in fields.control
        else token
        if i in whole or re.fullmatch(r"\[.*\]", token)
        else "##" + token
        for i, token in enumerate(fields.tokens)
    ]
    vocabulary = fields.vocabulary("wordpiece", tokens)
    unknown = fields.id("unknown")
    library = Library(models.WordPiece(dict(vocabulary.ids), unk_token=tokens[unknown] if unknown is not None else "[UNK]"))
    lowercase = fields.flag("normalizer.lowercase", True)
    accents = fields.flag("normalizer.strip_accents", lowercase)
    library.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=accents)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    special = fields.special(True, True)
    return with_library(vocabulary, library, special, strips_space=True, chat_template=fields.chat_template)


def _merged(fields: _Fields) -> Tokenizer:
    """SentencePiece's BPE vocabularies (LLaMA, Gemma), which have scores of pieces instead of merges."""
    normalization = Normalization(add_dummy_prefix=fields.flag("add_space_prefix", True))
    return _scored(fields, "bpe", fields.id("unknown"), normalization, fields.special(True))


def _unigram(fields: _Fields) -> Tokenizer:
    """SentencePiece's unigram vocabularies (T5, XLM-RoBERTa)."""
    raw = fields.get("precompiled_charsmap", [])
    raw = raw.tolist() if hasattr(raw, "tolist") else raw
    if not isinstance(raw, list) or not all(isinstance(byte, int) and -128 <= byte < 256 for byte in raw):
        raise TokenizerError("GGUF metadata: tokenizer.ggml.precompiled_charsmap is no list of bytes")
    normalization = Normalization(
        bytes(byte & 0xFF for byte in raw),
        add_dummy_prefix=fields.flag("add_space_prefix", False),
        remove_extra_whitespaces=fields.flag("remove_extra_whitespaces", False),
        escape_whitespaces=fields.flag("escape_whitespaces", True),
        treat_whitespace_as_suffix=fields.flag("treat_whitespace_as_suffix", False),
    )
    unknown = fields.id("unknown")
    return _scored(fields, "unigram", 2 if unknown is None else unknown, normalization, fields.special(False, True))


def _scored(
    fields: _Fields, algorithm: Algorithm, unknown: int | None, normalization: Normalization, special: Special
) -> Tokenizer:
    types = fields.numbers("token_type", NORMAL).tolist()
    scores = array("d", fields.numbers("scores", 0.0).astype("d").tobytes())  # a third of what a list of them takes
    return scored_tokenizer(
        Scored(algorithm, fields.tokens, scores, types, unknown, normalization),
        fields.vocabulary("sentencepiece"),
        special,
        chat_template=fields.chat_template,
    )
