"""Biases and penalties: sampling steps that change the logits of single tokens. Each returns new logits (V,)."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from ordito.runtime import Floats

if TYPE_CHECKING:
    from ordito.text.tokenizer import Tokenizer

LONGEST = 64
"""Tokens after which a longer repetition is not penalised more."""
MOST = 1e4
"""The greatest penalty that a repetition can get."""


def add_biases(logits_V: Floats, biases: Mapping[int, float]) -> Floats:
    """Logits (V,) plus the bias of each token that has one; -100 forbids a token, as OpenAI's clients expect."""
    logits_V = logits_V.copy()
    for id, bias in biases.items():
        if id < len(logits_V):
            logits_V[id] = logits_V[id] + bias if bias > -100 else -np.inf
    return logits_V


def penalise_repetition(logits_V: Floats, context: Sequence[int], penalty: float) -> Floats:
    """Logits (V,), those of tokens in `context` divided by `penalty` if positive, else multiplied by it (arXiv:1909.05858).

    A penalty below 1 makes these tokens more likely.
    """
    ids = np.unique(np.asarray(context, dtype=np.int64))
    logits_V = logits_V.copy()
    values = logits_V[ids]
    logits_V[ids] = np.where(values > 0, values / penalty, values * penalty)
    return logits_V


def penalise_presence_and_frequency(logits_V: Floats, answer: Sequence[int], presence: float, frequency: float) -> Floats:
    """Logits (V,) minus `presence` + `frequency` * count for each token that occurs `count` > 0 times in the answer.

    The formula is that of OpenAI's API reference.
    """
    ids, counts = np.unique(np.asarray(answer, dtype=np.int64), return_counts=True)
    logits_V = logits_V.copy()
    logits_V[ids] -= (presence + frequency * counts).astype(logits_V.dtype)
    return logits_V


def penalise_dry(
    logits_V: Floats, context: Sequence[int], multiplier: float, base: float, allowed: int, breakers: frozenset[int]
) -> Floats:
    """Logits (V,) minus multiplier * base^(n - allowed) for each token that would extend a repetition of n >= allowed tokens.

    A repetition ends at a token of `breakers`, and these tokens are never penalised (DRY, see `Sampling`).
    """
    ids = np.asarray(context, dtype=np.int64)
    last = len(ids) - 1
    if last < 1 or int(ids[last]) in breakers:
        return logits_V
    ends = np.flatnonzero(ids[:last] == ids[last])  # earlier places of the last token: where a repetition may have ended
    lengths = np.ones(len(ends), dtype=np.int64)
    alive = np.arange(len(ends))
    for back in range(1, LONGEST):
        if last - back < 0 or int(ids[last - back]) in breakers:
            break
        alive = alive[ends[alive] >= back]
        alive = alive[ids[ends[alive] - back] == ids[last - back]]
        if not len(alive):
            break
        lengths[alive] += 1
    ends, lengths = ends[lengths >= allowed], lengths[lengths >= allowed]
    longest = np.zeros(len(logits_V), dtype=np.int64)
    np.maximum.at(longest, ids[ends + 1], lengths)
    found = np.array([id for id in np.flatnonzero(longest) if int(id) not in breakers], dtype=np.int64)
    logits_V = logits_V.copy()
    logits_V[found] -= np.minimum(multiplier * float(base) ** (longest[found] - allowed), MOST).astype(logits_V.dtype)
    return logits_V


@lru_cache(16)
def tokens_containing(tokenizer: Tokenizer, texts: tuple[str, ...]) -> frozenset[int]:
    """Ids of the tokens whose text contains one of `texts`: the breakers of DRY."""
    # All tokens are searched at once, joined by a byte that UTF-8 does not use.
    tokens = [tokenizer.vocabulary.bytes_of(id) + b"\xff" for id in range(tokenizer.vocab_size)]
    joined, ends = b"".join(tokens), list(accumulate(map(len, tokens)))
    wanted = [text.encode() for text in texts if text]
    return frozenset(bisect(ends, found.start()) for text in wanted for found in re.finditer(re.escape(text), joined))
