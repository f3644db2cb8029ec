"""Summaries of recorded arrays: the few numbers of each that a trace shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHOWN = 4
"""Leading values of a vector that are shown."""


@dataclass(frozen=True)
class Numbers:
    """A summary of one result."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values with stable keys."""
        return asdict(self)


@dataclass(frozen=True)
class Vector(Numbers):
    """A vector: root mean square, minimum, maximum and the first few of its finite values."""

    rms: float
    low: float
    high: float
    first: tuple[float, ...]

    @classmethod
    def of(cls, values: NDArray[Any]) -> Vector:
        """The summary of an array of any shape, in row-major order."""
        flat = values[np.isfinite(values)].astype(np.float64)
        return cls(rms(flat), float(flat.min()), float(flat.max()), tuple(map(float, flat[:SHOWN])))


@dataclass(frozen=True)
class Look:
    """The attention of one head: the position with the largest weight, that weight, and the entropy of all weights in bits.

    `sink` is the weight of a learned sink, 0 without one.
    """

    position: int
    probability: float
    entropy: float
    sink: float


@dataclass(frozen=True)
class Looks(Numbers):
    """The attention of all heads; `position` has the largest mean weight over heads, which is `mean`."""

    heads: tuple[Look, ...]
    position: int
    mean: float

    @classmethod
    def of(cls, weights_NS: NDArray[Any]) -> Looks:
        """The summary of the attention weights of one query, (N, S)."""
        mean_S = weights_NS.mean(axis=0)
        most = int(mean_S.argmax())
        return cls(tuple(map(_look, weights_NS.astype(np.float64))), most, float(mean_S[most]))


def _look(weights_S: NDArray[Any]) -> Look:
    sink = max(0.0, 1.0 - float(weights_S.sum()))
    sink = sink if sink > 1e-5 else 0.0  # smaller values are rounding errors
    shares = np.append(weights_S[weights_S > 0], sink if sink else [])
    best = int(weights_S.argmax())
    return Look(best, float(weights_S[best]), abs(float(-(shares * np.log2(shares)).sum())), sink)


@dataclass(frozen=True)
class Choice(Numbers):
    """The experts chosen for the token, by descending weight, and their weights."""

    experts: tuple[int, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, experts_K: NDArray[Any], weights_K: NDArray[Any]) -> Choice:
        """The summary of one token's experts and weights, (K,) each."""
        order = (-weights_K).argsort(kind="stable")
        return cls(tuple(int(e) for e in experts_K[order]), tuple(float(w) for w in weights_K[order]))


@dataclass(frozen=True)
class Sum(Vector):
    """The residual stream after an addition; `change` is the RMS of what was added over that of the stream before."""

    change: float | None

    @classmethod
    def after(cls, before: NDArray[Any], after: NDArray[Any]) -> Sum:
        """The summary from the stream before and after."""
        vector = Vector.of(after)
        size = rms(before)
        change = rms(after.astype(np.float64) - before) / size if size else None
        return cls(vector.rms, vector.low, vector.high, vector.first, change)


@dataclass(frozen=True)
class Guess(Numbers):
    """A predicted token and its probability."""

    id: int
    text: str
    probability: float


def rms(values: NDArray[Any]) -> float:
    """The root mean square."""
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def best(logits_V: NDArray[Any], count: int) -> list[tuple[int, float]]:
    """The `count` most probable ids of logits (V,), with their probabilities."""
    exps = np.exp(logits_V.astype(np.float64) - logits_V.max())
    top = (-logits_V).argsort(kind="stable")[:count]
    return [(int(id), float(exps[id] / exps.sum())) for id in top]
