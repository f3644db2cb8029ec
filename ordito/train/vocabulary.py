"""Extending the vocabulary of a trained model: new ids after the old ones, with initial embeddings from existing rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from tokenizers import AddedToken
from tokenizers import Tokenizer as Library
from torch import Tensor

from ordito.errors import OrditoError, TokenizerError
from ordito.nn.transformer import Transformer
from ordito.spec import with_vocabulary
from ordito.text.byte_level import ByteLevel
from ordito.text.files import MAX_TOKEN, read_lines
from ordito.text.library import with_library
from ordito.text.scored import Scored, scored_library
from ordito.text.to_gguf import TEXTS
from ordito.text.tokenizer import Tokenizer
from ordito.text.vocabulary import ENDS

Rows = Literal["pieces", "mean"]
"""Initial rows of a new token: the mean of the rows of the tokens that spelled it before, or of all tokens."""


@dataclass(frozen=True)
class Extended:
    """A model and a tokenizer with new tokens, and the ids of all requested tokens, those that existed before included."""

    module: Transformer
    tokenizer: Tokenizer
    ids: Mapping[str, int]


def extend(module: Transformer, tokenizer: Tokenizer, tokens: Iterable[str], rows: Rows = "pieces") -> Extended:
    """A model and its tokenizer with further tokens. Ids and rows of old tokens do not change; existing tokens are skipped.

    Padding rows of the embedding beyond the tokenizer's tokens are used before the embedding grows. With `pieces`, a new token
    starts as the mean of the tokens that spelled it; with `mean`, as the mean of all rows, which keeps new tokens from taking
    probability from old ones (Hewitt 2021, "Initializing New Word Embeddings"). Raises `TokenizerError` for tokens that cannot
    be added, `OrditoError` if the tokenizer is not the model's.
    """
    asked = list(dict.fromkeys(tokens))
    new = [token for token in asked if token not in tokenizer.vocabulary.ids]
    spec = module.spec
    if tokenizer.vocab_size > spec.vocab_size:
        raise OrditoError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, but the model embeds {spec.vocab_size}: extend the model's own"
        )
    extended = tokenizer
    if new:
        extended = with_tokens(tokenizer, new)
        pieces = [tokenizer.encode(token, add_special_tokens=False) for token in new]
        used = range(tokenizer.vocab_size) if rows == "mean" else None
        module = _with_rows(module, tokenizer.vocab_size, [list(used) if used else ids for ids in pieces])
    return Extended(module, extended, {token: extended.vocabulary.ids[token] for token in asked})


def read_tokens(file: Path) -> list[str]:
    """The tokens of a file, one per line, spaces included. Raises `TokenizerError` if it cannot be read."""
    return [line for line in read_lines(file) if line]


def with_tokens(tokenizer: Tokenizer, tokens: Sequence[str]) -> Tokenizer:
    """The tokenizer with further tokens, whose ids follow the old ones; they are matched whole, before the text is split.

    Tokens of the form `<|...|>`, and known end-of-turn tokens, become control tokens. Raises `TokenizerError` for a token that
    is empty, too long or in the vocabulary already.
    """
    for token in tokens:
        if not token.strip() or len(token) > MAX_TOKEN or token in tokenizer.vocabulary.ids:
            raise TokenizerError(
                f"cannot add the token {token[:40]!r}: expected one that is new and has 1 to {MAX_TOKEN} characters"
            )
    library = _library(tokenizer)
    first, old = tokenizer.vocab_size, tokenizer.vocabulary
    control = {
        first + i for i, token in enumerate(tokens) if token in ENDS or (token.startswith("<|") and token.endswith("|>"))
    }
    added = [AddedToken(token, special=first + i in control, normalized=False) for i, token in enumerate(tokens)]
    vocabulary = replace(
        old,
        tokens=[*old.tokens, *tokens],
        control=old.control | control,
        added=old.added | set(range(first, first + len(tokens))),
    )
    made = with_library(
        vocabulary,
        library,
        tokenizer.special,
        added=added,
        strips_space=tokenizer.strips_space,
        chat_template=tokenizer.chat_template,
    )
    for i, token in enumerate(tokens):
        if library.token_to_id(token) != first + i:
            raise TokenizerError(
                f"the token {token!r} got the id {library.token_to_id(token)}, expected {first + i}: ids have gaps"
            )
    return made


def _library(tokenizer: Tokenizer) -> Library:
    """A new tokenizer of the `tokenizers` library that encodes as this one does. Raises `TokenizerError` if there is none."""
    engine = tokenizer.engine
    if isinstance(engine, Library):
        return Library.from_str(engine.to_str())
    if isinstance(engine, ByteLevel):
        return engine.library()
    assert isinstance(engine, Scored), "expected a tokenizer of the library, of BPE merges, or of scored pieces"
    library = scored_library(engine, tokenizer.vocabulary)
    if any(
        library.encode(text, add_special_tokens=False).ids != tokenizer.encode(text, add_special_tokens=False)
        for text in _PLAIN
    ):
        raise TokenizerError(
            "these pieces cannot be written as a tokenizer.json that cuts alike, so no token can be added to them"
        )
    return library


_PLAIN = tuple(text for text in TEXTS if "<" not in text)


def _with_rows(module: Transformer, first: int, sources: Sequence[Sequence[int]]) -> Transformer:
    """The module with new rows from index `first` on, each the mean of its `sources`, in the embedding and an untied head."""
    size = max(module.spec.vocab_size, first + len(sources))
    spec = with_vocabulary(module.spec, size, first + len(sources))
    state = module.state_dict()
    head = spec.lm_head
    names = [f"{spec.embedding.name}.tokens.weight", *([f"{head.name}.weight", f"{head.name}.bias"] if head else [])]
    for name in names:
        if name in state:
            state[name] = _grown(state[name], size, first, sources)
    with torch.device("meta"):
        made = Transformer(spec)
    made.load_state_dict(state, strict=True, assign=True)
    return made.train(module.training)


def _grown(rows: Tensor, size: int, first: int, sources: Sequence[Sequence[int]]) -> Tensor:
    """Rows (V, ...) grown to (size, ...); row `first` + i is the mean of the rows sources[i]."""
    grown = torch.cat((rows, rows.new_zeros(size - len(rows), *rows.shape[1:])))
    for i, ids in enumerate(sources):
        grown[first + i] = rows[list(ids)].float().mean(dim=0).to(rows.dtype)
    return grown
