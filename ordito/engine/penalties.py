"""The steps that change the logits of single tokens for what the context holds; each gives new logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ordito.runtime import Floats

LONGEST = 64
"""Tokens of a repetition beyond which it gets no worse."""
MOST = 1e4
"""The greatest penalty that a repetition can get."""


def biased(logits_V: Floats, biases: Mapping[int, float]) -> Floats:
    """Logits with something added to those of single tokens; -100 forbids one, as OpenAI's clients expect."""
    logits_V = logits_V.copy()
    for id, bias in biases.items():
        if id < len(logits_V):
            logits_V[id] = logits_V[id] + bias if bias > -100 else -np.inf
    return logits_V


def penalise(logits_V: Floats, context: Sequence[int], penalty: float) -> Floats:
    """Logits with the tokens of `context` made less likely (or more, if `penalty` is below 1)."""
    seen = np.unique(np.asarray(context, dtype=np.int64))
    logits_V = logits_V.copy()
    values = logits_V[seen]
    logits_V[seen] = np.where(values > 0, values / penalty, values * penalty)
    return logits_V


def seen(logits_V: Floats, answer: Sequence[int], presence: float, frequency: float) -> Floats:
    """Logits less `presence` for each token of the answer, and less `frequency` for each time that it came."""
    ids, counts = np.unique(np.asarray(answer, dtype=np.int64), return_counts=True)
    logits_V = logits_V.copy()
    logits_V[ids] -= (presence + frequency * counts).astype(logits_V.dtype)
    return logits_V


def dry(
    logits_V: Floats, context: Sequence[int], multiplier: float, base: float, allowed: int, breakers: frozenset[int]
) -> Floats:
    """Logits less multiplier * base^(n - allowed) for each token that would lengthen a repetition of n tokens."""
    ids = np.asarray(context, dtype=np.int64)
    last = len(ids) - 1
    if last < 1 or int(ids[last]) in breakers:
        return logits_V
    ends = np.flatnonzero(ids[:last] == ids[last])  # where what was said before ended as the context ends now
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
    found = np.flatnonzero(longest)
    found = np.array([id for id in found if int(id) not in breakers], dtype=np.int64)
    logits_V = logits_V.copy()
    logits_V[found] -= np.minimum(multiplier * float(base) ** (longest[found] - allowed), MOST).astype(logits_V.dtype)
    return logits_V
