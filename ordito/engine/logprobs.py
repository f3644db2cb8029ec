"""Log probabilities of tokens among all others, before any step of the sampling."""

from __future__ import annotations

import numpy as np

from ordito.engine.request import Token
from ordito.runtime import Floats


def token_with_logprob(id: int, logits_V: Floats, top: int | None) -> Token:
    """A token with its log probability (natural) and the `top` most probable ones; the id alone where `top` is None."""
    if top is None:
        return Token(id)
    logits = logits_V.astype(np.float64)
    greatest = logits.max()
    norm = greatest + np.log(np.exp(logits - greatest).sum())
    count = min(top, len(logits))
    best = np.argpartition(logits, len(logits) - count)[len(logits) - count :] if count else np.array([], np.int64)
    best = best[np.lexsort((best, -logits[best]))]
    return Token(id, float(logits[id] - norm), tuple((int(i), float(logits[i] - norm)) for i in best))
