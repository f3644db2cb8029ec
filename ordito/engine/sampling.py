"""From logits to the next token: an explicit chain of steps, each a small function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ordito.errors import OrditoError
from ordito.runtime import Floats


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen. The steps run in this order; a step at its neutral value is skipped.

    `repetition_penalty`: logits of tokens already in the context are divided by it if positive, multiplied if negative
    (CTRL, arXiv:1909.05858); 1 is neutral. `temperature`: logits are divided by it; 0 takes the most probable token.
    `top_k`: only the k most probable stay; 0 is neutral. `top_p`: the smallest set of most probable tokens whose
    probabilities reach p stays (arXiv:1904.09751); 1 is neutral. `min_p`: tokens with at least min_p times the highest
    probability stay (arXiv:2407.01082); 0 is neutral. `seed`: the same seed gives the same tokens; None draws afresh.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _in_range("temperature", self.temperature, 0, 100)
        _in_range("top_k", self.top_k, 0, 2**31, whole=True)
        _in_range("top_p", self.top_p, 0, 1, above=True)
        _in_range("min_p", self.min_p, 0, 1)
        _in_range("repetition_penalty", self.repetition_penalty, 0, 100, above=True)
        if self.seed is not None:
            _in_range("seed", self.seed, 0, 2**64 - 1, whole=True)


def _in_range(name: str, value: float, low: float, high: float, *, above: bool = False, whole: bool = False) -> None:
    kind = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high or (above and value == low):
        expected = f"a {'whole ' if whole else ''}number {'above' if above else 'from'} {low} {'up ' if above else ''}to {high}"
        raise OrditoError(f"{name} is {value!r}, expected {expected}")


class Sampler:
    """Chooses tokens for one sequence by one `Sampling`."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.random = np.random.default_rng(sampling.seed)

    def choose(self, logits_V: Floats, context: Sequence[int]) -> int:
        """The next token after `context`, whose logits are `logits_V` (left untouched)."""
        s = self.sampling
        if s.repetition_penalty != 1.0:
            logits_V = penalise(logits_V, context, s.repetition_penalty)
        if s.temperature == 0.0:
            return int(logits_V.argmax())
        kept, probabilities = candidates(logits_V, s)
        return int(kept[self.random.choice(len(kept), p=probabilities)])


def penalise(logits_V: Floats, context: Sequence[int], penalty: float) -> Floats:
    """Logits with the tokens of `context` made less likely (or more, if `penalty` is below 1)."""
    seen = np.unique(np.asarray(context, dtype=np.int64))
    logits_V = logits_V.copy()
    values = logits_V[seen]
    logits_V[seen] = np.where(values > 0, values / penalty, values * penalty)
    return logits_V


def candidates(logits_V: Floats, sampling: Sampling) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that may come next, most probable first, and their probabilities after temperature and all cuts."""
    scaled = logits_V.astype(np.float64) / sampling.temperature
    k = min(sampling.top_k or len(scaled), len(scaled))
    top = np.argpartition(scaled, len(scaled) - k)[len(scaled) - k :] if k < len(scaled) else np.arange(k)
    order = top[np.argsort(-scaled[top], kind="stable")]
    probabilities = _softmax(scaled[order])
    if sampling.top_p < 1.0:
        # A token stays if those before it do not reach p yet, so the first always stays.
        keep = np.cumsum(probabilities) - probabilities < sampling.top_p
        order, probabilities = order[keep], _softmax(scaled[order[keep]])
    if sampling.min_p > 0.0:
        keep = probabilities >= sampling.min_p * probabilities[0]
        order, probabilities = order[keep], _softmax(scaled[order[keep]])
    return order, probabilities


def _softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max())
    return np.asarray(weights / weights.sum())
