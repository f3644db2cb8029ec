"""The tokenizer of a model's folder: from tokenizer.json if there is one, else from the files of the original tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library

from ordito.errors import NoTokenizerError
from ordito.text.files import copy_files, listed, read_bytes
from ordito.text.from_merges import read_merges
from ordito.text.from_ranks import is_ranks, read_ranks
from ordito.text.from_sentencepiece import read_sentencepiece
from ordito.text.from_tekken import read_tekken
from ordito.text.from_wordpieces import read_wordpieces
from ordito.text.library import as_tokenizer_error, encoder, with_strips
from ordito.text.settings import Settings
from ordito.text.tokenizer import Tokenizer
from ordito.text.vocabulary import Kind, Vocabulary


def read_folder(folder: Path) -> Tokenizer:
    """The tokenizer of a folder. Raises `NoTokenizerError` if there is none, `TokenizerError` if it is damaged."""
    for name, reader in READERS.items():
        for path in sorted(folder.glob(name), reverse=True):
            if path.is_file():
                with as_tokenizer_error(f"{path}: cannot be read"):
                    return reader(path, Settings(folder))
    raise NoTokenizerError(
        f"{folder}: there is no tokenizer, expected one of {', '.join(READERS)} (with merges.txt beside vocab.json)"
    )


def _read_json(path: Path, settings: Settings) -> Tokenizer:
    library = Library.from_buffer(read_bytes(path))
    library.no_truncation()
    library.no_padding()
    # The library's parse is asked: one in Python would take three times the file's size.
    kind, strips_space = decoding(json.loads(library.decoder.__getstate__()) if library.decoder else None)
    tokens = listed(library.get_vocab(with_added_tokens=True), str(path))
    added = library.get_added_tokens_decoder()
    vocabulary = Vocabulary(kind, tokens, frozenset(id for id, token in added.items() if token.special), frozenset(added))
    vocabulary = with_strips(vocabulary, added.values())
    plain, full = (library.encode("a", add_special_tokens=add).ids for add in (False, True))
    start = next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), len(full))
    return Tokenizer(
        vocabulary,
        encoder(library),
        settings.special(vocabulary, full[:start], full[start + len(plain) :]),
        strips_space=strips_space,
        chat_template=settings.chat_template,
        write=lambda target, tokenizer: copy_files(path.parent, target),
        engine=library,
    )


def _read_model(path: Path, settings: Settings) -> Tokenizer:
    """A tokenizer.model, which is SentencePiece's or, since Llama 3, a rank file."""
    return (read_ranks if is_ranks(read_bytes(path)) else read_sentencepiece)(path, settings)


READERS: dict[str, Callable[[Path, Settings], Tokenizer]] = {
    "tokenizer.json": _read_json,
    "tekken.json": read_tekken,
    "tokenizer.model": _read_model,
    "tokenizer.model.v*": read_sentencepiece,
    "spiece.model": read_sentencepiece,
    "sentencepiece.bpe.model": read_sentencepiece,
    "qwen.tiktoken": read_ranks,
    "vocab.json": read_merges,
    "vocab.txt": read_wordpieces,
}
"""File of a tokenizer -> its reader, in order of preference."""


def decoding(decoder: Any) -> tuple[Kind, bool]:
    """The kind of vocabulary that the decoder of a tokenizer.json implies, and whether it strips the first space of a text."""
    steps = decoder.get("decoders", []) if isinstance(decoder, dict) and decoder.get("type") == "Sequence" else [decoder]
    by_type = {step.get("type"): step for step in steps if isinstance(step, dict)}
    if "ByteLevel" in by_type:
        return "byte-level", False
    if "BPEDecoder" in by_type:
        return "word-ends", False
    if "Metaspace" in by_type:
        step = by_type["Metaspace"]
        return "sentencepiece", step.get(
            "prepend_scheme", "always" if step.get("add_prefix_space", True) else "never"
        ) != "never"
    if "ByteFallback" in by_type or "Replace" in by_type:
        return "sentencepiece", "Strip" in by_type
    # WordPiece, and whole words without any decoder: both are joined by spaces.
    return "wordpiece", True
