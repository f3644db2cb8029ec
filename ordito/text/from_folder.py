"""Tokenizers of folders in the Hugging Face layout: tokenizer.json, and what tokenizer_config.json says about it."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library

from ordito.errors import TokenizerError
from ordito.text.tokenizer import Special, Tokenizer
from ordito.text.vocabulary import Kind, Vocabulary

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.txt",
    "tokenizer.model",
)
"""What belongs to a tokenizer in such a folder."""

MAX_TOKENS = 1 << 22
"""More than any published vocabulary has, by ten times: a single id must not decide how much memory is taken."""


def read_folder(folder: Path) -> Tokenizer:
    """The tokenizer of a folder."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        advice = "convert it with transformers' AutoTokenizer and save_pretrained"
        old = f" (there is a tokenizer.model: {advice})" if (folder / "tokenizer.model").is_file() else ""
        raise TokenizerError(f"{folder}: there is no tokenizer.json, which a tokenizer is read from{old}")
    with as_tokenizer_error(f"{path}: cannot be read"):
        return _read(folder, path)


@contextmanager
def as_tokenizer_error(what: str) -> Iterator[None]:
    """Whatever the library raises, as our error: bare Exceptions, and panics, which are no Exceptions at all."""
    try:
        yield
    except (TokenizerError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise TokenizerError(f"{what} ({' '.join(str(error).split())[:200]})") from None


def _read(folder: Path, path: Path) -> Tokenizer:
    config = _object(folder / "special_tokens_map.json") | _object(folder / "tokenizer_config.json")
    data = json.loads(path.read_text(encoding="utf-8"))
    library = Library.from_file(str(path))
    library.no_truncation()
    library.no_padding()
    kind, strips_space = decoding(data.get("decoder"))
    ids = library.get_vocab(with_added_tokens=True)
    largest = max(ids.values(), default=-1)
    if largest >= MAX_TOKENS:
        raise TokenizerError(f"{path}: a token has the id {largest:,}, expected fewer than {MAX_TOKENS:,} tokens")
    tokens = [""] * (largest + 1)
    for token, id in ids.items():
        tokens[id] = token
    added = {int(token["id"]): bool(token.get("special")) for token in data.get("added_tokens") or []}
    vocabulary = Vocabulary(kind, tokens, frozenset(id for id, control in added.items() if control), frozenset(added))
    return Tokenizer(
        vocabulary,
        cutter(library),
        _special(library, vocabulary, config),
        strips_space=strips_space,
        chat_template=_chat_template(folder, config),
        write=lambda target, tokenizer: copy_files(folder, target),
    )


def cutter(library: Library) -> Any:
    """A library tokenizer as the function that `Tokenizer` wants."""
    # Whether control tokens are read is a setting of the library's object: another thread must not change it between
    # here and the encoding, or what a user typed would become a control token.
    lock = threading.Lock()

    def cut(text: str, parse_special: bool) -> list[int]:
        with lock, as_tokenizer_error("the vocabulary cannot spell this text"):
            library.encode_special_tokens = not parse_special
            ids: list[int] = library.encode(text, add_special_tokens=False).ids
        return ids

    return cut


def decoding(decoder: Any) -> tuple[Kind, bool]:
    """How a decoder of tokenizer.json turns tokens into text, and whether it strips a first space."""
    steps = decoder.get("decoders", []) if isinstance(decoder, dict) and decoder.get("type") == "Sequence" else [decoder]
    by_type = {step.get("type"): step for step in steps if isinstance(step, dict)}
    if "ByteLevel" in by_type:
        return "byte-level", False
    if "Metaspace" in by_type:
        step = by_type["Metaspace"]
        return "sentencepiece", step.get(
            "prepend_scheme", "always" if step.get("add_prefix_space", True) else "never"
        ) != "never"
    if "ByteFallback" in by_type or "Replace" in by_type:
        return "sentencepiece", "Strip" in by_type
    # WordPiece, and whole words without any decoder: both are joined by spaces.
    return "wordpiece", True


def _special(library: Library, vocabulary: Vocabulary, config: dict[str, Any]) -> Special:
    def id_of(role: str) -> int | None:
        token = config.get(f"{role}_token")
        token = token.get("content") if isinstance(token, dict) else token
        return vocabulary.ids.get(token) if isinstance(token, str) else None

    plain, full = (library.encode("a", add_special_tokens=add).ids for add in (False, True))
    start = next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), len(full))
    prefix, suffix = full[:start], full[start + len(plain) :]
    bos, eos = id_of("bos"), id_of("eos")
    for wanted, id, ids in ((config.get("add_bos_token"), bos, prefix), (config.get("add_eos_token"), eos, suffix)):
        if wanted is True and id is not None and id not in ids:
            ids.append(id)
        elif wanted is False and id in ids:
            ids.remove(id)
    return Special(bos, eos, id_of("pad"), id_of("unk"), tuple(prefix), tuple(suffix))


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    if (path := folder / "chat_template.jinja").is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    template = _object(folder / "chat_template.json").get("chat_template", config.get("chat_template"))
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(data, dict):
        raise TokenizerError(f"{path}: holds a {type(data).__name__}, expected an object of keys and values")
    return data


def copy_files(source: Path, target: Path) -> None:
    """Bring the files of a tokenizer to another folder as they are."""
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (source / name).is_file() and source.resolve() != target.resolve():
            shutil.copyfile(source / name, target / name)
