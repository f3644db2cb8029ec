"""Reading the untrusted files of a tokenizer, with bounds on their size."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ordito.errors import TokenizerError

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""The files of a tokenizer in a model's folder that transformers reads, too."""

MAX_BYTES = 128 << 20
"""The largest published tokenizer files have some 35 MB."""

MAX_TOKENS = 1 << 22
"""Largest id plus one: ten times that of any published vocabulary, so that a single wrong id cannot exhaust memory."""

MAX_TOKEN = 16_384
"""Characters of a token; the longest of published vocabularies have a few hundred."""


def read_bytes(path: Path) -> bytes:
    """A file's contents. Raises `TokenizerError` if it cannot be read or is too large."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise TokenizerError(f"{path}: has {path.stat().st_size:,} bytes, expected at most {MAX_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_text(path: Path) -> str:
    """A UTF-8 file's contents, lines ending in `\\n`."""
    try:
        return read_bytes(path).decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: is no UTF-8 text at byte {error.start}") from None


def read_lines(path: Path) -> list[str]:
    """A UTF-8 file's lines; the last one may lack its newline."""
    text = read_text(path)
    if text.count("\n") > MAX_TOKENS:
        raise TokenizerError(f"{path}: has {text.count(chr(10)):,} lines, expected at most {MAX_TOKENS:,}")
    return text.removesuffix("\n").split("\n")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one if there is no such file."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(data, dict):
        raise TokenizerError(f"{path}: holds a {type(data).__name__}, expected an object of keys and values")
    return data


def listed(ids: dict[str, int], what: str) -> list[str]:
    """A vocabulary as a list of tokens by id, "" for unused ids. Raises `TokenizerError` for an id or token out of bounds."""
    for token, id in ids.items():
        if type(id) is not int or not 0 <= id < MAX_TOKENS:
            raise TokenizerError(
                f"{what}: token {token[:40]!r} has the id {id if type(id) is not int else format(id, ',')}, "
                f"expected 0 to {MAX_TOKENS - 1:,}"
            )
        if len(token) > MAX_TOKEN:
            raise TokenizerError(f"{what}: token {id} has {len(token):,} characters, expected at most {MAX_TOKEN:,}")
    tokens = [""] * (max(ids.values(), default=-1) + 1)
    for token, id in ids.items():
        tokens[id] = token
    return tokens


def copy_files(source: Path, target: Path) -> None:
    """Copy the files of a tokenizer to another folder."""
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (source / name).is_file() and source.resolve() != target.resolve():
            shutil.copyfile(source / name, target / name)
