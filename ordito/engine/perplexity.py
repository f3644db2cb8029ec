"""Perplexity of a text, and the KL divergence between two runtimes of the same model, as llama.cpp's `llama-perplexity` does.

A text is cut into windows of `context` tokens; the first token of each becomes BOS (where the model has one), and the tokens of
its second half are scored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ordito.errors import OrditoError
from ordito.runtime import Floats, Runtime


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """`perplexity` is exp(mean of -ln p) over the scored `tokens`; `error` is its standard error.

    Against a reference: `divergence` is the mean of KL(reference ‖ model) over the scored tokens, in nats, `greatest` the
    largest, and `same_best` the share of tokens for which both have the same most probable token.
    """

    perplexity: float
    error: float
    tokens: int
    windows: int
    divergence: float | None = None
    greatest: float | None = None
    same_best: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def perplexity(
    runtime: Runtime,
    token_ids: Sequence[int],
    *,
    context: int = 512,
    start: int | None = None,
    windows: int | None = None,
    reference: Runtime | None = None,
) -> Perplexity:
    """The perplexity of a text, over all its windows or the first `windows`; `start` is the BOS token with which each begins.

    Raises `OrditoError` for a context that the model does not have, a text that does not fill one window, or a `reference` with
    another vocabulary.
    """
    if not 4 <= context <= runtime.spec.context:
        raise OrditoError(
            f"got windows of {context} tokens, expected 4 to {runtime.spec.context}, which the model was made for"
        )
    if len(token_ids) < context:
        raise OrditoError(
            f"the text has {len(token_ids)} tokens, expected at least the {context} of one window: give a longer one"
        )
    if reference is not None and reference.spec.vocab_size != runtime.spec.vocab_size:
        raise OrditoError("the reference has another vocabulary: expected another reading of the same model")
    losses: list[np.ndarray] = []
    divergences: list[np.ndarray] = []
    agreed = 0
    for ids in _windows(list(token_ids), context, start, windows):
        scored = slice(context // 2, context - 1)
        logs = _log_softmax(runtime.logits(ids)[scored])
        losses.append(-logs[np.arange(len(logs)), ids[scored.start + 1 :]])
        if reference is not None:
            theirs = _log_softmax(reference.logits(ids)[scored])
            divergences.append((np.exp(theirs) * (theirs - logs)).sum(axis=1))
            agreed += int((theirs.argmax(axis=1) == logs.argmax(axis=1)).sum())
    all_losses = np.concatenate(losses)
    mean, n = float(all_losses.mean()), len(all_losses)
    kl = np.concatenate(divergences) if divergences else None
    return Perplexity(
        perplexity=math.exp(mean),
        error=math.exp(mean) * float(all_losses.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0,
        tokens=n,
        windows=len(losses),
        divergence=None if kl is None else float(kl.mean()),
        greatest=None if kl is None else float(kl.max()),
        same_best=None if kl is None else agreed / n,
    )


def _windows(ids: list[int], context: int, start: int | None, most: int | None) -> Iterator[list[int]]:
    number = len(ids) // context
    for window in range(number if most is None else min(number, most)):
        piece = ids[window * context : (window + 1) * context]
        yield piece if start is None else [start, *piece[1:]]


def _log_softmax(logits_TV: Floats) -> np.ndarray:
    shifted = logits_TV.astype(np.float64) - logits_TV.max(axis=1, keepdims=True)
    logs: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs
