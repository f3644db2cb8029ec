"""The steps that leave some tokens out, on probabilities in falling order unless they say otherwise."""

from __future__ import annotations

import math

import numpy as np

FIRST = 512
"""How many of the most probable tokens are sorted at first, where a cut will most likely fall among them."""


def softmax(x: np.ndarray) -> np.ndarray:
    """Probabilities of logits."""
    weights = np.exp(x - x.max())
    return np.asarray(weights / weights.sum())


def ordered(scaled_V: np.ndarray, top_k: int = 0, top_p: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and their probabilities, most probable first; only the best `top_k` where it is given, and none that cannot be.

    Of a large vocabulary no more is sorted than a nucleus of `top_p` can hold: those beyond it are left out, while their
    probability counts.
    """
    count = int(np.isfinite(scaled_V).sum())
    if 0 < top_k < count:
        order = _best(scaled_V, top_k)
        return order, softmax(scaled_V[order])
    probabilities = softmax(scaled_V)
    some = FIRST
    while top_p < 1.0 and some < count:
        order = _best(scaled_V, some)
        if probabilities[order].sum() >= top_p:
            return order, probabilities[order]
        some *= 8
    order = np.argsort(-scaled_V, kind="stable")[:count]
    return order, probabilities[order]


def _best(scaled_V: np.ndarray, count: int) -> np.ndarray:
    top = np.argpartition(scaled_V, len(scaled_V) - count)[len(scaled_V) - count :]
    return np.asarray(top[np.lexsort((top, -scaled_V[top]))])


def within_sigmas(logits_V: np.ndarray, sigmas: float) -> np.ndarray:
    """Logits in any order; those further than so many standard deviations below the greatest become minus infinity."""
    finite = logits_V[np.isfinite(logits_V)]
    return np.where(logits_V >= finite.max() - sigmas * finite.std(), logits_V, -np.inf)


def nucleus(probabilities: np.ndarray, p: float) -> np.ndarray:
    """Which tokens stay: those before which less than p is reached, so the first always stays. In the order that they have."""
    return np.cumsum(probabilities) - probabilities < p


def typical(probabilities: np.ndarray, p: float) -> np.ndarray:
    """Which tokens stay: those whose surprise is nearest to the entropy, up to a probability of p."""
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.log(probabilities)
        entropy = np.nansum(probabilities * surprise)
    nearest = np.argsort(np.abs(surprise - entropy), kind="stable")
    keep = np.zeros(len(probabilities), bool)
    keep[nearest[nucleus(probabilities[nearest], p)]] = True
    return keep


def without_top(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Which tokens stay: of those that reach the threshold only the least probable, and all others."""
    above = int((probabilities >= threshold).sum())
    return np.arange(len(probabilities)) >= above - 1 if above > 1 else np.ones(len(probabilities), bool)


def mirostat_2(probabilities: np.ndarray, surprise: float) -> int:
    """How many tokens stay: those of at most so many bits (Algorithm 2 of the later version of arXiv:2007.14966)."""
    with np.errstate(divide="ignore"):
        return max(1, int((-np.log2(probabilities) <= surprise).sum()))


def mirostat_1(probabilities: np.ndarray, surprise: float, considered: int = 100) -> int:
    """How many tokens stay, from an estimate of Zipf's exponent over the most probable (Algorithm 1)."""
    count = len(probabilities)
    top = probabilities[: min(considered, count)]
    top = top[top > 0]
    if len(top) < 2:
        return 1
    t = np.log(np.arange(2, len(top) + 1) / np.arange(1, len(top)))
    exponent = float((t * np.log(top[:-1] / top[1:])).sum() / (t * t).sum())
    epsilon = exponent - 1
    if exponent <= 0 or abs(epsilon) < 1e-9:
        return mirostat_2(probabilities, surprise)
    ratio = epsilon / -math.expm1(-epsilon * math.log(count))  # epsilon / (1 - count^-epsilon)
    return max(1, min(count, round(2.0 ** min((math.log2(ratio) + surprise) / exponent, 40.0))))
