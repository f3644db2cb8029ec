"""Adapter to the `tokenizers` library: its errors, its tokenizers and its files."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Library

from ordito.errors import TokenizerError
from ordito.files import write_atomically
from ordito.text.tokenizer import Special, Tokenizer
from ordito.text.vocabulary import Vocabulary

LONG = 1 << 14
"""Characters from which on a text is encoded with the GIL released, so that other threads can run meanwhile."""


@contextmanager
def as_tokenizer_error(what: str) -> Iterator[None]:
    """Turn errors of the library into `TokenizerError`: bare Exceptions, and Rust panics, which are BaseExceptions."""
    try:
        yield
    except (TokenizerError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise TokenizerError(f"{what} ({' '.join(str(error).split())[:200]})") from None


def encoder(library: Library) -> Callable[[str, bool], list[int]]:
    """The function `encode(text, parse_special)` of a library tokenizer, for `Tokenizer`."""
    # Whether control tokens are parsed is a setting of the library's object. Another thread must not change it before
    # the text is encoded, or a user's text might become a control token.
    lock = threading.Lock()

    def encode(text: str, parse_special: bool) -> list[int]:
        with lock, as_tokenizer_error("the vocabulary cannot spell this text"):
            library.encode_special_tokens = not parse_special
            if len(text) < LONG:
                ids: list[int] = library.encode(text, add_special_tokens=False).ids
            else:  # the library releases the GIL only for batches
                (batch,) = library.encode_batch([text], add_special_tokens=False)
                ids = batch.ids
        return ids

    return encode


def with_library(
    vocabulary: Vocabulary,
    library: Library,
    special: Special,
    *,
    added: Iterable[AddedToken] | None = None,
    strips_space: bool = False,
    chat_template: str | None = None,
    write: Callable[[Path, Tokenizer], None] | None = None,
) -> Tokenizer:
    """A tokenizer that encodes with `library`, to which the vocabulary's added tokens are added.

    Without `write`, which copies the files that it came from, a tokenizer.json is written.
    """
    added = added_tokens(vocabulary) if added is None else list(added)
    library.add_tokens(added)
    return Tokenizer(
        with_strips(vocabulary, added),
        encoder(library),
        special,
        strips_space=strips_space,
        chat_template=chat_template,
        write=write or (lambda folder, tokenizer: write_library(folder, tokenizer, library)),
        engine=library,
    )


def added_tokens(vocabulary: Vocabulary) -> list[AddedToken]:
    """The tokens that are matched whole, for the library."""
    left, right = vocabulary.lstrip, vocabulary.rstrip
    return [
        AddedToken(
            vocabulary.tokens[id], special=id in vocabulary.control, lstrip=id in left, rstrip=id in right, normalized=False
        )
        for id in sorted(vocabulary.added)
    ]


def with_strips(vocabulary: Vocabulary, added: Iterable[AddedToken]) -> Vocabulary:
    """The vocabulary with what the library's tokens say of the white space beside them."""
    found = [token for token in added if token.lstrip or token.rstrip]
    if not found:
        return vocabulary
    left, right = ({vocabulary.ids[token.content] for token in found if getattr(token, side)} for side in ("lstrip", "rstrip"))
    return replace(vocabulary, lstrip=vocabulary.lstrip | left, rstrip=vocabulary.rstrip | right)


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
    write_atomically(folder / "tokenizer.json", [library.to_str(pretty=True).encode()])
    write_atomically(folder / "tokenizer_config.json", [json.dumps(config, indent=2).encode()])
