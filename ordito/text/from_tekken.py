"""Tokenizers from Mistral's own `tekken.json`: Mistral NeMo, Mistral Small and later ones.

The file holds tokens in base64 with their ranks, the pattern that splits text, and control tokens, which have the first ids:
other ids are ranks plus the number of control tokens. Source: the mistral-common package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ordito.errors import TokenizerError
from ordito.text.files import MAX_TOKENS, read_object
from ordito.text.from_ranks import decoded, ranked_tokenizer
from ordito.text.pretokenizers import PreTokenizer
from ordito.text.settings import Settings
from ordito.text.tokenizer import Tokenizer

_OLD = (
    "<unk> <s> </s> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] [/TOOL_RESULTS] [TOOL_CALLS] [IMG] "
    "<pad> [IMG_BREAK] [IMG_END] [PREFIX] [MIDDLE] [SUFFIX] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT]"
).split()
"""The control tokens of the oldest files, which do not list them."""

_ROLES = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}


def read_tekken(path: Path, settings: Settings) -> Tokenizer:
    """The tokenizer of a tekken.json. Raises `TokenizerError` for a damaged one."""
    data = read_object(path)
    config = data.get("config")
    config = config if isinstance(config, dict) else {}
    pattern = config.get("pattern")
    if not isinstance(pattern, str):
        raise TokenizerError(f"{path}: config.pattern is {str(pattern)[:40]!r}, expected the pattern that cuts text")
    size, n_control = (_size(config, key, path) for key in ("default_vocab_size", "default_num_special_tokens"))
    listed = data.get("special_tokens")
    names = dict(enumerate(_OLD)) if listed is None else dict(_entry(token, "token_str", path) for token in _list(listed, path))
    control = {id: names.get(id, f"<SPECIAL_{id}>") for id in range(n_control)}
    if beyond := [id for id in names if id >= n_control]:
        raise TokenizerError(f"{path}: a special token has the rank {beyond[0]:,}, expected fewer than {n_control:,}")
    ranks = {}
    for token in _list(data.get("vocab"), path)[: max(0, size - n_control)]:
        rank, text = _entry(token, "token_bytes", path)
        ranks[decoded(text, f"{path}: the token of rank {rank:,}")] = rank + n_control
    return ranked_tokenizer(ranks, control, PreTokenizer((pattern,), ignore_merges=True), _ROLES, settings, path)


def _size(config: dict[str, Any], key: str, path: Path) -> int:
    value = config.get(key)
    if type(value) is not int or not 0 <= value <= MAX_TOKENS:
        raise TokenizerError(f"{path}: config.{key} is {str(value)[:40]}, expected 0 to {MAX_TOKENS:,}")
    return value


def _list(value: Any, path: Path) -> list[Any]:
    if not isinstance(value, list):
        raise TokenizerError(f"{path}: vocab or special_tokens is a {type(value).__name__}, expected a list of tokens")
    return value


def _entry(token: Any, key: str, path: Path) -> tuple[int, str]:
    """Rank and spelling of a token."""
    rank, text = (token.get("rank"), token.get(key)) if isinstance(token, dict) else (None, None)
    if type(rank) is not int or not 0 <= rank < MAX_TOKENS or not isinstance(text, str):
        raise TokenizerError(f"{path}: a token is {str(token)[:60]}, expected an object with rank and {key}")
    return rank, text
