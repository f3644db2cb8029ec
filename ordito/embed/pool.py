"""Embeddings: the hidden states of a text, pooled into one vector."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from ordito.errors import ContextError, OrditoWarning
from ordito.runtime import Floats, Runtime
from ordito.spec import Pooling
from ordito.text.tokenizer import Tokenizer

BATCH = 32
"""Texts in one batch of the model."""
DEFAULT = Pooling(kind="mean")
"""The pooling of a model that does not name one, as in sentence-transformers."""


def embed(runtime: Runtime, tokenizer: Tokenizer, texts: Sequence[str]) -> Floats:
    """One vector for each text, (texts, D), by the model's own pooling.

    A text longer than the pooling's `max_tokens` is truncated, with an `OrditoWarning` that names both numbers. Raises
    `ContextError` for a text without tokens or beyond the model's context.
    """
    pooling = runtime.spec.pooling or DEFAULT
    return embed_ids(runtime, [_encode(tokenizer, text, pooling.max_tokens, runtime.spec.context) for text in texts])


def embed_ids(runtime: Runtime, encoded: Sequence[Sequence[int]]) -> Floats:
    """As `embed`, for texts given as token ids, none of them longer than the model embeds."""
    pooling = runtime.spec.pooling or DEFAULT
    vectors = np.zeros((len(encoded), runtime.spec.d_model), dtype=np.float32)
    # Texts of similar length share a batch, so that there is little padding.
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        for row, hidden_TD in zip(rows, runtime.hidden([encoded[row] for row in rows]), strict=True):
            vectors[row] = pool(hidden_TD, pooling)
    if pooling.dense:
        vectors = runtime.transform(vectors)
    return normalised(vectors) if pooling.normalise else vectors


def pool(hidden_TD: Floats, pooling: Pooling) -> Floats:
    """The vector (D,) of one text's hidden states (T, D), before the pooling's dense maps."""
    vector: Floats = {"cls": hidden_TD[0], "mean": hidden_TD.mean(axis=0), "last": hidden_TD[-1]}[pooling.kind]
    return vector


def normalised(vectors_ND: Floats) -> Floats:
    """The vectors scaled to length 1, (N, D)."""
    scaled: Floats = vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)
    return scaled


def cut(tokenizer: Tokenizer, ids: list[int], longest: int) -> list[int]:
    """The token ids truncated to `longest`; the tokens with which every text ends ([SEP]) stay at the end."""
    ends = tokenizer.special.suffix
    return [*ids[: longest - len(ends)], *ends]


def _encode(tokenizer: Tokenizer, text: str, longest: int | None, context: int) -> list[int]:
    ids = tokenizer.encode(text)
    if not ids:
        raise ContextError("a text has no tokens, expected at least one")
    if longest is not None and len(ids) > longest:
        warnings.warn(
            f"a text of {len(ids)} tokens was cut to {longest}, the longest that this model embeds", OrditoWarning, stacklevel=4
        )
        ids = cut(tokenizer, ids, longest)
    if len(ids) > context:
        raise ContextError(f"a text has {len(ids):,} tokens, but the model's context holds {context:,}: shorten it")
    return ids
