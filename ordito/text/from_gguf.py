"""Tokenizers in GGUF metadata (`tokenizer.ggml.*`): byte-level BPE, SentencePiece with scores, WordPiece."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Library

from ordito.errors import TokenizerError, did_you_mean
from ordito.text.from_folder import as_tokenizer_error, cutter
from ordito.text.pretokenizers import PRE_TOKENIZERS
from ordito.text.sentencepiece import SPACE, SentencePiece
from ordito.text.tokenizer import Special, Tokenizer
from ordito.text.vocabulary import ENDS, Vocabulary

CONTROL, USER_DEFINED = 3, 4
"""Token types of GGUF: written by templates only; matched whole in any text."""

MAX_TOKEN = 16_384  # characters; the longest of published vocabularies have a few hundred


def read_metadata(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer in a GGUF file's metadata."""
    fields = _Fields(metadata)
    model = fields.text("model")
    readers = {"gpt2": _byte_level, "llama": _sentencepiece, "bert": _wordpiece}
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
        raw = self.get("tokens", None)
        if not isinstance(raw, list) or not raw:
            raise TokenizerError("GGUF metadata: there is no tokenizer.ggml.tokens, expected a list of tokens")
        self.tokens = [t.decode("utf-8", "replace") if isinstance(t, bytes) else t for t in raw]
        if not all(isinstance(token, str) for token in self.tokens):
            raise TokenizerError("GGUF metadata: tokenizer.ggml.tokens holds something that is no string")
        longest = max(self.tokens, key=len)
        if len(longest) > MAX_TOKEN:
            raise TokenizerError(
                f"GGUF metadata: token {self.tokens.index(longest)} of tokenizer.ggml.tokens has {len(longest):,} "
                f"characters, expected at most {MAX_TOKEN:,}"
            )
        types = self.numbers("token_type", 1)
        self.added = frozenset(i for i, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED))
        # Some files mark the end of a turn as a token that users may write; nobody means `<|im_end|>` as text.
        self.control = frozenset(
            i for i in self.added if types[i] == CONTROL or (self.tokens[i] in ENDS and self.tokens[i].startswith("<|"))
        )
        template = metadata.get("tokenizer.chat_template")
        self.chat_template = template if isinstance(template, str) else None

    def get(self, key: str, default: Any) -> Any:
        return self.metadata.get(f"tokenizer.ggml.{key}", default)

    def text(self, key: str, default: str = "") -> str:
        value = self.get(key, default)
        if not isinstance(value, str):
            raise TokenizerError(f"GGUF metadata: tokenizer.ggml.{key} is {value!r}, expected a string")
        return value

    def flag(self, key: str, default: bool) -> bool:
        return bool(self.get(key, default))

    def numbers(self, key: str, default: float) -> list[Any]:
        """One number for each token."""
        values = self.get(key, None)
        if values is None:
            return [default] * len(self.tokens)
        values = values.tolist() if hasattr(values, "tolist") else values
        if not isinstance(values, list) or len(values) != len(self.tokens):
            got = len(values) if isinstance(values, list) else type(values).__name__
            raise TokenizerError(f"GGUF metadata: tokenizer.ggml.{key} has {got} entries, expected {len(self.tokens)}")
        return values

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
    vocabulary = Vocabulary("byte-level", fields.tokens, fields.control, fields.added)
    merges = fields.get("merges", None)
    if not isinstance(merges, list) or not all(isinstance(m, str) and " " in m[1:] for m in merges):
        raise TokenizerError("GGUF metadata: tokenizer.ggml.merges is not a list of pairs, expected 'left right' strings")
    # The space between the halves is the first after the first character: a half may itself begin with one.
    pairs = [(m[: 1 + m[1:].index(" ")], m[2 + m[1:].index(" ") :]) for m in merges]
    with as_tokenizer_error("GGUF metadata: the vocabulary does not hold together"):
        library = Library(models.BPE(vocabulary.ids, pairs, ignore_merges=pre.ignore_merges))
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.patterns]
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    library.decoder = decoders.ByteLevel()
    return _with_library(fields, vocabulary, library, fields.special(pre.adds_bos), strips_space=False)


def _wordpiece(fields: _Fields) -> Tokenizer:
    """BERT's vocabulary, which GGUF spells with `▁` before words instead of `##` inside them."""
    special = fields.control | {id for id in (fields.id("unknown"), fields.id("mask")) if id is not None}
    tokens = [
        token if i in special or re.fullmatch(r"\[.*\]", token) else token[1:] if token.startswith(SPACE) else "##" + token
        for i, token in enumerate(fields.tokens)
    ]
    vocabulary = Vocabulary("wordpiece", tokens, fields.control, fields.added)
    unknown = fields.id("unknown")
    library = Library(models.WordPiece(vocabulary.ids, unk_token=tokens[unknown] if unknown is not None else "[UNK]"))
    lowercase = fields.flag("normalizer.lowercase", True)
    accents = fields.flag("normalizer.strip_accents", lowercase)
    library.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=accents)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    return _with_library(fields, vocabulary, library, fields.special(True, True), strips_space=True)


def _with_library(
    fields: _Fields, vocabulary: Vocabulary, library: Library, special: Special, *, strips_space: bool
) -> Tokenizer:
    library.add_tokens(added_tokens(vocabulary))
    return Tokenizer(
        vocabulary,
        cutter(library),
        special,
        strips_space=strips_space,
        chat_template=fields.chat_template,
        write=lambda folder, tokenizer: write_library(folder, tokenizer, library),
    )


def added_tokens(vocabulary: Vocabulary) -> list[AddedToken]:
    """The tokens that are matched whole, for the library."""
    return [
        AddedToken(vocabulary.tokens[id], special=id in vocabulary.control, normalized=False) for id in sorted(vocabulary.added)
    ]


def _sentencepiece(fields: _Fields) -> Tokenizer:
    scores = fields.numbers("scores", 0.0)
    if not all(isinstance(score, int | float) and math.isfinite(score) for score in scores):
        raise TokenizerError("GGUF metadata: tokenizer.ggml.scores holds something that is no finite number")
    vocabulary = Vocabulary("sentencepiece", fields.tokens, fields.control, fields.added)
    # Control tokens are no pieces: no text may merge into one.
    pieces = dict(vocabulary.ids)
    for id in vocabulary.control:
        pieces.pop(fields.tokens[id], None)
    engine = SentencePiece(pieces, scores, fields.id("unknown"))
    spaced = fields.flag("add_space_prefix", True)
    every, defined = Matcher(vocabulary, vocabulary.added), Matcher(vocabulary, vocabulary.added - vocabulary.control)

    def cut(text: str, parse_special: bool) -> list[int]:
        ids: list[int] = []
        after_special = True
        for part in (every if parse_special else defined).split(text):
            if isinstance(part, int):
                ids.append(part)
                after_special = True
            else:
                ids += engine.encode(" " + part if spaced and after_special else part)
                after_special = False
        return ids

    return Tokenizer(
        vocabulary,
        cut,
        fields.special(True),
        strips_space=spaced,
        chat_template=fields.chat_template,
        write=lambda folder, tokenizer: write_library(folder, tokenizer, sentencepiece_library(vocabulary, scores, spaced)),
    )


class Matcher:
    """Finds tokens that are matched whole: the leftmost first, the longest among those that begin together."""

    def __init__(self, vocabulary: Vocabulary, ids: frozenset[int]) -> None:
        self.names = {token: id for id in sorted(ids, reverse=True) if (token := vocabulary.tokens[id])}
        lengths: dict[str, set[int]] = {}
        for token in self.names:
            lengths.setdefault(token[0], set()).add(len(token))
        self.lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        firsts = "".join(map(re.escape, self.lengths))
        self.begins = re.compile(f"[{firsts}]") if firsts else None

    def split(self, text: str) -> list[str | int]:
        """Text between matches, and the ids of the matches."""
        parts: list[str | int] = []
        start = place = 0
        while self.begins and (begin := self.begins.search(text, place)):
            place = begin.start()
            ends = (place + length for length in self.lengths[text[place]])
            end = next((end for end in ends if text[place:end] in self.names), None)
            if end is None:
                place += 1
                continue
            parts += [text[start:place]] if place > start else []
            parts.append(self.names[text[place:end]])
            start = place = end
        return [*parts, text[start:]] if start < len(text) else parts


def sentencepiece_library(vocabulary: Vocabulary, scores: Sequence[float], spaced: bool) -> Library:
    """The same vocabulary as a merge table: a merge for each way to cut a piece in two, best piece first."""
    ids = vocabulary.ids
    merges = []
    for piece, id in ids.items():
        if id not in vocabulary.added:
            for cut in range(1, len(piece)):
                left, right = ids.get(piece[:cut]), ids.get(piece[cut:])
                if left is not None and right is not None:
                    merges.append((-scores[id], left, right, (piece[:cut], piece[cut:])))
    merges.sort(key=lambda merge: merge[:3])
    library = Library(models.BPE(ids, [pair for *_, pair in merges], fuse_unk=True, byte_fallback=True))
    prepend = [normalizers.Prepend(SPACE)] if spaced else []
    library.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", SPACE)])
    steps: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    library.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if spaced else [])])
    library.add_tokens(added_tokens(vocabulary))
    return library


def write_library(folder: Path, tokenizer: Tokenizer, library: Library) -> None:
    """Write tokenizer.json and tokenizer_config.json for transformers."""
    special, token = tokenizer.special, tokenizer.token
    folder.mkdir(parents=True, exist_ok=True)
    around = [token(id) for id in special.prefix], [token(id) for id in special.suffix]
    if special.prefix or special.suffix:
        names = {token(id): id for id in (*special.prefix, *special.suffix)}
        single = [*around[0], "$A", *around[1]]
        library.post_processor = processors.TemplateProcessing(
            single=single, pair=[*single, *(f"{part}:1" for part in ["$B", *around[1]])], special_tokens=list(names.items())
        )
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    roles = {"bos": special.bos, "eos": special.eos, "pad": special.pad, "unk": special.unk}
    config |= {f"{role}_token": token(id) for role, id in roles.items() if id is not None}
    if tokenizer.chat_template is not None:
        config["chat_template"] = tokenizer.chat_template
    _replace(folder / "tokenizer.json", lambda path: library.save(str(path)))
    _replace(folder / "tokenizer_config.json", lambda path: path.write_text(json.dumps(config, indent=2), encoding="utf-8"))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file that is complete or absent."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    write(unfinished)
    os.replace(unfinished, path)
