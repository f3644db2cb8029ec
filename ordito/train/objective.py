"""Objectives: weighted sums of loss terms, each a sum over a batch and the count that divides it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from ordito.train.batch import Batch
from ordito.train.forward import Forward


@dataclass(frozen=True)
class Term:
    """A loss term: `total` sums it over a batch, `count` is the batch's part of the divisor, known before the forward pass.

    The divisor is the count of the whole optimizer step, over all micro-batches and processes, so that accumulated gradients
    are those of one large batch.
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
        """An objective of one term, with weight 1."""
        return cls(((1.0, term),))

    def __add__(self, other: Objective) -> Objective:
        return Objective(self.terms + other.terms)

    def __rmul__(self, weight: float) -> Objective:
        return replace(self, terms=tuple((weight * before, term) for before, term in self.terms))

    def counts(self, batch: Batch) -> dict[str, float]:
        """The count of each term in this batch."""
        return {term.name: float(term.count(batch)) for _, term in self.terms}

    def totals(self, forward: Forward) -> dict[str, Tensor]:
        """The sum of each term over this batch."""
        return {term.name: term.total(forward) for _, term in self.terms}

    def loss(self, totals: dict[str, Tensor], counts: dict[str, float]) -> Tensor:
        """sum_k weight_k total_k / count_k; a term whose count is 0 adds nothing."""
        parts = [weight * totals[term.name] / max(counts[term.name], 1e-9) for weight, term in self.terms]
        loss = parts[0]
        for part in parts[1:]:
            loss = loss + part
        return loss
