"""What is minimised: terms, each a sum over a batch and the count that it is divided by, and weighted sums of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from ordito.train.batch import Batch
from ordito.train.forward import Forward


@dataclass(frozen=True)
class Term:
    """A loss: `total` sums it over a batch, `count` says by what it is divided, before anything is computed.

    Sums and counts of a whole optimizer step, over all its micro-batches and processes, are divided only at the end: then
    accumulated gradients are those of one large batch.
    """

    name: str
    total: Callable[[Forward], Tensor]
    count: Callable[[Batch], float]


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms. Objectives add up and may be multiplied: `classification + 0.5 * language_model`."""

    terms: tuple[tuple[float, Term], ...]

    @classmethod
    def of(cls, term: Term) -> Objective:
        """One term, as it is."""
        return cls(((1.0, term),))

    def __add__(self, other: Objective) -> Objective:
        return Objective(self.terms + other.terms)

    def __rmul__(self, weight: float) -> Objective:
        return replace(self, terms=tuple((weight * before, term) for before, term in self.terms))

    def counts(self, batch: Batch) -> dict[str, float]:
        """What each term is divided by, of this batch alone."""
        return {term.name: float(term.count(batch)) for _, term in self.terms}

    def totals(self, forward: Forward) -> dict[str, Tensor]:
        """The sum of each term over this batch, not divided yet."""
        return {term.name: term.total(forward) for _, term in self.terms}

    def loss(self, totals: dict[str, Tensor], counts: dict[str, float]) -> Tensor:
        """sum_k weight_k total_k / count_k; a term that counts nothing adds nothing."""
        parts = [weight * totals[term.name] / max(counts[term.name], 1e-9) for weight, term in self.terms]
        loss = parts[0]
        for part in parts[1:]:
            loss = loss + part
        return loss
