"""From logits to the next token: an explicit chain of steps, each a small function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ordito.engine import cuts
from ordito.engine.penalties import add_biases, penalise_dry, penalise_presence_and_frequency, penalise_repetition
from ordito.errors import OrditoError
from ordito.runtime import Floats

MAX_BIASES = 1024
DRY_BREAKERS = ("\n", ":", '"', "*")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen. The steps run in this order; a step at its neutral value is skipped.

    On all logits:

    - `logit_bias`: added to the logits of single tokens, -100 to 100.
    - `repetition_penalty`: logits of tokens already in the context are divided by it if positive, multiplied if negative
      (CTRL, arXiv:1909.05858); 1 is neutral. `repetition_window`: how far back it looks, 0 for all.
    - `presence_penalty`, `frequency_penalty`: taken from the logits of tokens of the answer, once, and for each time that they
      came (OpenAI's API); 0 is neutral.
    - `dry_multiplier`: what would lengthen a repetition of n tokens, n at least `dry_allowed_length`, loses multiplier *
      base^(n - allowed) (DRY, github.com/oobabooga/text-generation-webui/pull/5677); 0 is neutral. Repetitions are looked for
      in the last `dry_window` tokens (0: all) and never across a token that holds one of `dry_breakers`.
    - `top_n_sigma`: only logits within n standard deviations of the greatest stay (arXiv:2411.07641); 0 is neutral.
    - `temperature`: logits are divided by it; 0 takes the most probable token and skips what follows.

    On what is left, most probable first:

    - `top_k`: only the k most probable stay; 0 is neutral.
    - `typical_p`: those whose surprise is nearest to the entropy stay, up to a mass of p (arXiv:2202.00666); 1 is neutral.
    - `top_p`: the smallest set of most probable tokens whose probabilities reach p stays (arXiv:1904.09751); 1 is neutral.
    - `min_p`: tokens with at least min_p times the highest probability stay (arXiv:2407.01082); 0 is neutral.
    - `xtc_probability`: with it, all but the least of the tokens with at least `xtc_threshold` go (XTC,
      github.com/oobabooga/text-generation-webui/pull/6335); 0 is neutral.
    - `mirostat` 1 or 2 cuts so that the surprise stays near `mirostat_tau` bits, learning at the rate `mirostat_eta`
      (arXiv:2007.14966); it stands for top_k, typical_p, top_p, min_p and XTC; 0 is neutral.

    `seed`: the same seed gives the same tokens, alone or among others; None draws afresh.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    repetition_penalty: float = 1.0
    repetition_window: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_window: int = 0
    dry_breakers: Sequence[str] = DRY_BREAKERS
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, (low, high, above, whole) in RANGES.items():
            _in_range(name, getattr(self, name), low, high, above=above, whole=whole)
        if self.seed is not None:
            _in_range("seed", self.seed, 0, 2**64 - 1, whole=True)
        if len(self.logit_bias) > MAX_BIASES:
            raise OrditoError(f"logit_bias has {len(self.logit_bias)} tokens, expected at most {MAX_BIASES}")
        for id, bias in self.logit_bias.items():
            _in_range("a token of logit_bias", id, 0, 2**31, whole=True)
            _in_range(f"the logit_bias of token {id}", bias, -100, 100)
        if isinstance(self.dry_breakers, str) or not all(isinstance(text, str) for text in self.dry_breakers):
            raise OrditoError(f"dry_breakers is {self.dry_breakers!r:.100}, expected a list of strings")

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken: also at tiny temperatures, where no other has a probability, and dividing
        by them would overflow."""
        return self.temperature < 1e-12

    @property
    def greatest(self) -> int:
        """How many of the largest logits are enough to choose a token; 0 if all may be needed."""
        penalised = self.repetition_penalty != 1.0 or self.presence_penalty or self.frequency_penalty or self.dry_multiplier
        if self.logit_bias or penalised:
            return 0
        if self.greedy:
            return 1
        return 0 if self.mirostat or self.top_n_sigma else self.top_k


RANGES: dict[str, tuple[float, float, bool, bool]] = {
    "temperature": (0, 100, False, False),
    "top_k": (0, 2**31, False, True),
    "top_p": (0, 1, True, False),
    "min_p": (0, 1, False, False),
    "typical_p": (0, 1, True, False),
    "top_n_sigma": (0, 100, False, False),
    "repetition_penalty": (0, 100, True, False),
    "repetition_window": (0, 2**31, False, True),
    "presence_penalty": (-2, 2, False, False),
    "frequency_penalty": (-2, 2, False, False),
    "dry_multiplier": (0, 100, False, False),
    "dry_base": (1, 10, False, False),
    "dry_allowed_length": (1, 2**31, False, True),
    "dry_window": (0, 2**31, False, True),
    "xtc_probability": (0, 1, False, False),
    "xtc_threshold": (0, 1, False, False),
    "mirostat": (0, 2, False, True),
    "mirostat_tau": (0, 100, False, False),
    "mirostat_eta": (0, 1, False, False),
}
"""Setting -> its minimum and maximum, whether the minimum itself is excluded, and whether it must be an integer."""


def _in_range(name: str, value: float, low: float, high: float, *, above: bool = False, whole: bool = False) -> None:
    kind = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high or (above and value == low):
        expected = f"a {'whole ' if whole else ''}number {'above' if above else 'from'} {low} {'up ' if above else ''}to {high}"
        raise OrditoError(f"{name} is {value!r}, expected {expected}")


class Sampler:
    """Chooses tokens for one sequence by one `Sampling`; `breakers` are the tokens that hold one of its `dry_breakers`."""

    def __init__(self, sampling: Sampling, breakers: frozenset[int] = frozenset()) -> None:
        self.sampling, self.breakers = sampling, breakers
        self.random = np.random.default_rng(sampling.seed)
        self.surprise = 2 * sampling.mirostat_tau  # Mirostat's mu, in bits

    def reseed(self, seed: tuple[int, ...]) -> None:
        """Draw from another seed, as each of several answers to one request does."""
        self.random = np.random.default_rng(seed)

    def choose(self, logits_V: Floats, context: Sequence[int], made: int = 0, allowed_V: np.ndarray | None = None) -> int:
        """The next token after `context`, the last `made` tokens of which are the answer's, among those that are `allowed_V`.

        `logits_V` is left untouched. Raises `OrditoError` where they are no numbers.
        """
        s = self.sampling
        if not np.isfinite(logits_V[logits_V.argmax()]):
            raise OrditoError("the model's logits are no numbers: its weights are damaged, or too large for this arithmetic")
        logits_V = self.adjusted(logits_V, context, made)
        if allowed_V is not None:
            logits_V = np.where(allowed_V, logits_V, -np.inf)
        if s.greedy:
            return int(logits_V.argmax())
        if s.mirostat:
            return self._mirostat(logits_V)
        if not _cuts_anything(s):
            probabilities = cuts.softmax(_scaled(logits_V, s))
            return self._draw(np.arange(len(probabilities)), probabilities)
        return self._draw(*candidates(logits_V, s, self.random))

    def adjusted(self, logits_V: Floats, context: Sequence[int], made: int = 0) -> Floats:
        """Logits after biases and penalties."""
        s = self.sampling
        if s.logit_bias:
            logits_V = add_biases(logits_V, s.logit_bias)
        if s.repetition_penalty != 1.0:
            logits_V = penalise_repetition(logits_V, context[-s.repetition_window :], s.repetition_penalty)
        if made and (s.presence_penalty or s.frequency_penalty):
            logits_V = penalise_presence_and_frequency(logits_V, context[-made:], s.presence_penalty, s.frequency_penalty)
        if s.dry_multiplier:
            back = context[-s.dry_window :]
            logits_V = penalise_dry(logits_V, back, s.dry_multiplier, s.dry_base, s.dry_allowed_length, self.breakers)
        return logits_V

    def _draw(self, ids: np.ndarray, probabilities: np.ndarray) -> int:
        return int(ids[self._place(probabilities)])

    def _place(self, probabilities: np.ndarray) -> int:
        sums = np.cumsum(probabilities)
        # The number drawn is below the last sum, so that a token of probability 0 is never chosen.
        return int(np.searchsorted(sums, self.random.random() * sums[-1], side="right").clip(0, len(sums) - 1))

    def _mirostat(self, logits_V: Floats) -> int:
        s = self.sampling
        order, probabilities = cuts.ordered(_scaled(logits_V, s))
        kept = cuts.mirostat_1 if s.mirostat == 1 else cuts.mirostat_2
        count = kept(probabilities, self.surprise)
        place = self._place(probabilities[:count])  # the surprise uses probabilities among all tokens, not among those kept
        self.surprise -= s.mirostat_eta * (-np.log2(probabilities[place]) - s.mirostat_tau)
        return int(order[place])


def _cuts_anything(s: Sampling) -> bool:
    return bool(s.top_k or s.typical_p < 1.0 or s.top_p < 1.0 or s.min_p > 0.0 or s.xtc_probability > 0.0)


def _scaled(logits_V: Floats, s: Sampling) -> np.ndarray:
    scaled = logits_V.astype(np.float64)
    if s.top_n_sigma > 0.0:
        scaled = cuts.top_n_sigma_logits(scaled, s.top_n_sigma)
    return scaled / s.temperature


def candidates(
    logits_V: Floats, sampling: Sampling, random: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that may come next, most probable first, and their probabilities after temperature and all cuts.

    XTC draws with `random`, and is left out without it.
    """
    s = sampling
    order, probabilities = cuts.ordered(_scaled(logits_V, s), s.top_k, s.top_p if s.typical_p == 1.0 else 1.0)
    if s.typical_p < 1.0:
        order, probabilities = _kept(order, probabilities, cuts.typical(probabilities, s.typical_p))
    if s.top_p < 1.0:
        order, probabilities = _kept(order, probabilities, cuts.nucleus(probabilities, s.top_p))
    if s.min_p > 0.0:
        order, probabilities = _kept(order, probabilities, probabilities >= s.min_p * probabilities[0])
    if random is not None and s.xtc_probability > 0.0 and random.random() < s.xtc_probability:
        order, probabilities = _kept(order, probabilities, cuts.xtc(probabilities, s.xtc_threshold))
    return order, probabilities


def _kept(order: np.ndarray, probabilities: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return order[keep], probabilities[keep] / probabilities[keep].sum()
