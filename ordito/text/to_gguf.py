"""Tokenizers as GGUF metadata (`tokenizer.ggml.*`), the inverse of from_gguf.py.

GGUF describes a tokenizer by a few names and switches, where other formats spell out its behaviour. Those that describe a given
tokenizer are found by trial: metadata are read back, and must encode a corpus of difficult texts to the same ids.
"""

from __future__ import annotations

import base64
import json
import warnings
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
from tokenizers import Tokenizer as Library

from ordito.errors import OrditoWarning, TokenizerError
from ordito.text.byte_level import ByteLevel
from ordito.text.from_gguf import STRIPS, read_metadata
from ordito.text.pretokenizers import PRE_TOKENIZERS, PreTokenizer
from ordito.text.scored import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Algorithm, Scored
from ordito.text.sentencepiece import SPACE
from ordito.text.tokenizer import Tokenizer
from ordito.text.vocabulary import Vocabulary

FIRST_NAMES = ("qwen2", "llama-bpe", "smollm", "gpt-2", "tekken", "gpt-4o", "deepseek-llm", "deepseek-v3")
"""The names of pre-tokenizers that are tried first: of several with the same meaning the best known; those that split digits
before those that do not, since a vocabulary without tokens of several digits cannot distinguish them.
"""

TEXTS = (
    "Hello, world! How's it going?  I'LL see you at 12:34, on 2024-01-31; it costs $1,234.56 (or 1000000 lire).",
    "  leading and trailing  ",
    "tabs\tand\nnew\n\nlines \n  \r\n mixed",
    "CamelCase snake_case kebab-case HTTPServer iPhone15 x=y+1; if(a!=b){return a/b;} // done...",
    "perché città naïve Ærøskøbing ÜBER straße İstanbul ﬁ ½ ² Ⅷ",
    "你好，世界！こんにちは 안녕하세요 привет мир שלום مرحبا नमस्ते ไทย",
    "🙂👩‍👩‍👧 e\u0301 e\u0301\u0302 \u200b\u00a0 \u3000 zero\u200dwidth",
    "aaaaaaaaaaaaaaaaaaaaaaaaaa !!!!!!!!!!!! 000000000000 ############",
    "<|im_start|>user\n<s>[INST] <b>tags</b> </s> [MASK] [CLS]",
    "e.g. 3.14159, 1st 2nd 3rd 10km 5%; don't won't we've I'm they'd 'quoted' \"double\"",
    "\u4e00\u4e8c\u4e09 123\u56db\u4e94 x\u00b2+y\u00b2=z\u00b2 \u221e\u2260\u2264",
)


def metadata_of(tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    """The keys `tokenizer.*` of this tokenizer, padded with unused tokens to `vocab_size`, the rows of the embedding.

    Raises `TokenizerError` if GGUF cannot express it; warns (`OrditoWarning`) if only its NFC normalization is lost, and if
    only Ordito will know which tokens take the white space beside them away.
    """
    kinds = {"byte-level": _byte_level, "sentencepiece": _pieces, "wordpiece": _wordpiece}
    if tokenizer.vocabulary.kind not in kinds:
        raise TokenizerError(f"GGUF has no tokenizers of the kind {tokenizer.vocabulary.kind!r}: keep the model as safetensors")
    common, composed = _common(tokenizer, vocab_size), [normalize("NFC", text) for text in TEXTS]
    nearly: dict[str, Any] | None = None
    for own in kinds[tokenizer.vocabulary.kind](tokenizer, vocab_size):
        metadata = {f"tokenizer.ggml.{key}": value for key, value in (common | own).items() if value is not None}
        if tokenizer.chat_template is not None:
            metadata["tokenizer.chat_template"] = tokenizer.chat_template
        found = read_metadata(metadata)
        if _alike(found, tokenizer, TEXTS):
            return metadata | _strips(tokenizer, found)
        if nearly is None and _alike(found, tokenizer, composed):
            nearly = metadata
    if nearly is not None:  # as in all GGUF files of Qwen: there is no key for NFC normalization
        warnings.warn(
            "GGUF cannot say that text is brought to Unicode's composed form first: text that is not will have other ids",
            OrditoWarning,
            stacklevel=3,
        )
        return nearly | _strips(tokenizer, read_metadata(nearly))
    raise TokenizerError(
        "the tokenizer cuts text in a way that GGUF has no name for, so that it would answer with other ids: keep the model as "
        "safetensors"
    )


def _strips(tokenizer: Tokenizer, found: Tokenizer) -> dict[str, list[int]]:
    """The keys `STRIPS`, for the tokens of which `found`, which was read without them, gives other ids."""
    vocabulary = tokenizer.vocabulary
    texts = {id: f"a {vocabulary.tokens[id]}\n a" for id in sorted(vocabulary.lstrip | vocabulary.rstrip)}
    odd = [
        id for id, text in texts.items() if found.encode(text, parse_special=True) != tokenizer.encode(text, parse_special=True)
    ]
    if not odd:
        return {}
    which = vocabulary.tokens[odd[0]] + (f" (and {len(odd) - 1} more)" if len(odd) > 1 else "")
    warnings.warn(
        f"GGUF cannot say that {which} takes away the white space beside it: Ordito reads its own note of that, other programs "
        "may give conversations other ids",
        OrditoWarning,
        stacklevel=4,
    )
    sides = {key: sorted(getattr(vocabulary, side).intersection(odd)) for side, key in STRIPS.items()}
    return {key: ids for key, ids in sides.items() if ids}


def _alike(one: Tokenizer, other: Tokenizer, texts: Sequence[str]) -> bool:
    return all(one.encode(text) == other.encode(text) for text in texts)


def _common(tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    """The keys that all kinds have: tokens, their types, and the ids of roles."""
    special, vocabulary = tokenizer.special, tokenizer.vocabulary
    padding = range(len(vocabulary.tokens), vocab_size)
    types = _types(vocabulary, [NORMAL] * len(vocabulary.tokens))
    return {
        "tokens": [*vocabulary.tokens, *(f"[PAD{i}]" for i in padding)],
        "token_type": types + [UNUSED] * len(padding),
        "bos_token_id": special.bos,
        "eos_token_id": special.eos,
        "unknown_token_id": special.unk,
        "padding_token_id": special.pad,
        "add_bos_token": bool(special.prefix),
        "add_eos_token": bool(special.suffix),
    }


def _types(vocabulary: Vocabulary, words: Sequence[int]) -> list[int]:
    """The type of each token: `words` has those of tokens that are neither control tokens nor added ones."""
    return [
        CONTROL if i in vocabulary.control else USER_DEFINED if i in vocabulary.added else kind for i, kind in enumerate(words)
    ]


def _model(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer of the library as JSON."""
    engine = tokenizer.engine.library() if isinstance(tokenizer.engine, ByteLevel) else tokenizer.engine
    if not isinstance(engine, Library):
        raise TokenizerError("this tokenizer cannot be written as GGUF: keep the model as safetensors")
    data: dict[str, Any] = json.loads(engine.to_str())
    return data


def _merges(model: dict[str, Any]) -> list[tuple[str, str]]:
    merges = model.get("merges", [])
    return [tuple(m) if isinstance(m, list) else (m[: 1 + m[1:].index(" ")], m[2 + m[1:].index(" ") :]) for m in merges]


def _byte_level(tokenizer: Tokenizer, vocab_size: int) -> Iterator[dict[str, Any]]:
    data = _model(tokenizer)
    merges = [" ".join(pair) for pair in _merges(data["model"])]
    tried: list[PreTokenizer] = []
    patterns = tuple(_patterns(data.get("pre_tokenizer")))
    same = [name for name in (*FIRST_NAMES, *PRE_TOKENIZERS) if PRE_TOKENIZERS[name].patterns == patterns]
    for name in dict.fromkeys((*same, *FIRST_NAMES, *PRE_TOKENIZERS)):
        if PRE_TOKENIZERS[name] not in tried:
            tried.append(PRE_TOKENIZERS[name])
            yield {"model": "gpt2", "pre": name, "merges": merges}


def _patterns(before: Any) -> Iterator[str]:
    """The patterns by which the library splits text into words."""
    if isinstance(before, dict):
        pattern = before.get("pattern")
        if isinstance(pattern, dict) and "Regex" in pattern:
            yield pattern["Regex"]
        for step in before.get("pretokenizers", []):
            yield from _patterns(step)


class _Pieces(NamedTuple):
    """A vocabulary of pieces: of each its score and type; the id of unknown text, and SentencePiece's map of characters."""

    algorithm: Algorithm
    scores: list[float]
    types: list[int]
    unknown: int | None
    charsmap: bytes


def _pieces(tokenizer: Tokenizer, vocab_size: int) -> Iterator[dict[str, Any]]:
    engine, missing = tokenizer.engine, vocab_size - len(tokenizer.vocabulary.tokens)
    pieces = _pieces_of_scored(tokenizer, engine) if isinstance(engine, Scored) else _pieces_of_library(tokenizer)
    types = list(pieces.types)
    if pieces.algorithm == "unigram" and pieces.unknown is not None and pieces.unknown < len(types):
        types[pieces.unknown] = UNKNOWN
    for prefix, extra in product((True, False), repeat=2):
        yield {
            "model": "llama" if pieces.algorithm == "bpe" else "t5",
            "scores": pieces.scores + [-1e6] * missing,
            "token_type": types + [UNUSED] * missing,
            "unknown_token_id": pieces.unknown,
            "add_space_prefix": prefix,
            "remove_extra_whitespaces": extra,
            "precompiled_charsmap": np.frombuffer(pieces.charsmap, np.uint8) if pieces.charsmap else None,
        }


def _pieces_of_scored(tokenizer: Tokenizer, scored: Scored) -> _Pieces:
    types = _types(tokenizer.vocabulary, scored.types)
    charsmap = scored.normalization.precompiled_charsmap
    return _Pieces(scored.algorithm, list(scored.scores), types, scored.unknown, charsmap)


def _pieces_of_library(tokenizer: Tokenizer) -> _Pieces:
    data, tokens = _model(tokenizer), tokenizer.vocabulary.tokens
    model = data["model"]
    are_bytes = [len(token) == 6 and token.startswith("<0x") for token in tokens]
    types = _types(tokenizer.vocabulary, [BYTE if is_byte else NORMAL for is_byte in are_bytes])
    if model["type"] == "Unigram":
        scores = [float(score) for _, score in model["vocab"]]
        scores += [0.0] * (len(tokens) - len(scores))
        return _Pieces("unigram", scores, types, model.get("unk_id"), _charsmap(data.get("normalizer")))
    # The earlier the merge of a piece, the higher its score.
    ranks = {left + right: rank for rank, (left, right) in reversed(list(enumerate(_merges(model))))}
    scores = [-float(ranks[token]) if token in ranks else -1e6 for token in tokens]
    return _Pieces("bpe", scores, types, tokenizer.unk_id, b"")


def _charsmap(normalizer: Any) -> bytes:
    """The character map among the library's normalizers, or b""."""
    if isinstance(normalizer, dict):
        if normalizer.get("type") == "Precompiled":
            return base64.b64decode(normalizer.get("precompiled_charsmap", ""))
        for step in normalizer.get("normalizers", []):
            if found := _charsmap(step):
                return found
    return b""


def _wordpiece(tokenizer: Tokenizer, vocab_size: int) -> Iterator[dict[str, Any]]:
    """BERT's vocabulary, which GGUF spells with `▁` at the beginning of words instead of `##` at their continuations."""
    vocabulary, unknown = tokenizer.vocabulary, tokenizer.unk_id
    whole = vocabulary.control | vocabulary.added | ({unknown} if unknown is not None else set())
    tokens = [
        token
        if i in whole or (token.startswith("[") and token.endswith("]"))
        else token[2:]
        if token.startswith("##")
        else SPACE + token
        for i, token in enumerate(vocabulary.tokens)
    ]
    padding = [f"[PAD{i}]" for i in range(len(tokens), vocab_size)]
    for lowercase, accents in ((True, True), (False, False), (True, False), (False, True)):
        yield {
            "model": "bert",
            "tokens": tokens + padding,
            "normalizer.lowercase": lowercase,
            "normalizer.strip_accents": accents,
            "cls_token_id": tokenizer.special.prefix[0] if tokenizer.special.prefix else None,
            "seperator_token_id": tokenizer.special.suffix[0] if tokenizer.special.suffix else None,
        }
