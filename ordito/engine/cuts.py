"""Sampling steps that remove tokens (truncation). Probabilities are in descending order unless a docstring says otherwise."""

from __future__ import annotations

import math

import numpy as np

FIRST = 512
"""Tokens that are sorted first for top-p, which in most cases hold the whole nucleus."""


def softmax(x: np.ndarray) -> np.ndarray:
    """Probabilities (V,) of logits (V,)."""
    weights = np.exp(x - x.max())
    return np.asarray(weights / weights.sum())


def ordered(scaled_V: np.ndarray, top_k: int = 0, top_p: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and their probabilities, most probable first: the best `top_k` if it is above 0, without tokens at -inf.

    Of a large vocabulary only as many tokens are sorted and returned as a nucleus of `top_p` needs. Their probabilities are
    still those among all tokens.
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


def top_n_sigma_logits(logits_V: np.ndarray, sigmas: float) -> np.ndarray:
    """Top-n-sigma (arXiv:2411.07641): logits (V,), in any order, with those more than `sigmas` standard deviations below the
    largest set to -inf."""
    finite = logits_V[np.isfinite(logits_V)]
    return np.where(logits_V >= finite.max() - sigmas * finite.std(), logits_V, -np.inf)


def nucleus(probabilities: np.ndarray, p: float) -> np.ndarray:
    """Top-p (arXiv:1904.09751): mask of the tokens to keep, those before which the sum is below `p`; the first always stays."""
    return np.cumsum(probabilities) - probabilities < p


def typical(probabilities: np.ndarray, p: float) -> np.ndarray:
    """Locally typical sampling (arXiv:2202.00666): mask of the tokens to keep, those whose surprise is nearest to the entropy,
    up to a sum of `p`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.log(probabilities)
        entropy = np.nansum(probabilities * surprise)
    nearest = np.argsort(np.abs(surprise - entropy), kind="stable")
    keep = np.zeros(len(probabilities), bool)
    keep[nearest[nucleus(probabilities[nearest], p)]] = True
    return keep


def xtc(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """XTC (exclude top choices): mask of the tokens to keep, all below the threshold and the least probable of those that reach
    it."""
    above = int((probabilities >= threshold).sum())
    return np.arange(len(probabilities)) >= above - 1 if above > 1 else np.ones(len(probabilities), bool)


def mirostat_2(probabilities: np.ndarray, surprise: float) -> int:
    """Mirostat 2.0: the number of tokens to keep, those with a surprise of at most so many bits (Algorithm 2 of the later
    version of arXiv:2007.14966)."""
    with np.errstate(divide="ignore"):
        return max(1, int((-np.log2(probabilities) <= surprise).sum()))


def mirostat_1(probabilities: np.ndarray, surprise: float, considered: int = 100) -> int:
    """Mirostat (arXiv:2007.14966, Algorithm 1): the number of tokens to keep for a `surprise` in bits, with Zipf's exponent
    estimated from the `considered` most probable tokens."""
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
