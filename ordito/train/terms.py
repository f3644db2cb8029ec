"""Loss terms that several tasks share, and their divisors."""

from __future__ import annotations

import torch
from torch import Tensor

from ordito.train.batch import Batch
from ordito.train.chunked import chunked_sum
from ordito.train.forward import Forward
from ordito.train.losses import cross_entropy
from ordito.train.objective import Term


def next_token() -> Term:
    """Next-token loss: -sum log p(token | tokens before it) over learned tokens, divided by their number."""

    def total(forward: Forward) -> Tensor:
        return chunked_sum(cross_entropy, forward.module.project, forward.before_nD, forward.head_parameters, forward.targets_n)

    return Term("next_token", total, count_learned)


def language_model_by_text() -> Term:
    """The mean next-token loss of each text's learned tokens, summed over texts and divided by their number.

    Short texts weigh as much as long ones: GPT-1's auxiliary objective (Radford et al. 2018, section 3.2; the published
    code divides each row by its own tokens first).
    """

    def total(forward: Forward) -> Tensor:
        weights_n = _weights_by_text(forward.batch)[forward.batch.learn_BT]
        return chunked_sum(
            cross_entropy, forward.module.project, forward.before_nD, forward.head_parameters, forward.targets_n, weights_n
        )

    return Term("language_model", total, count_texts)


def _weights_by_text(batch: Batch) -> Tensor:
    """For each token, 1 / the number of learned tokens of its text, (B, T)."""
    weights_BT = torch.zeros_like(batch.learn_BT, dtype=torch.float32)
    for place in (place for example in batch.places for place in example):
        span = (place.row, slice(place.begin, place.end))
        weights_BT[span] = 1 / batch.learn_BT[span].sum().clamp(min=1)
    return weights_BT


def count_learned(batch: Batch) -> float:
    """The learned tokens of a batch."""
    return batch.n_learned


def count_examples(batch: Batch) -> float:
    """The examples of a batch."""
    return len(batch.places)


def count_texts(batch: Batch) -> float:
    """The texts of a batch that have learned tokens."""
    places = (place for example in batch.places for place in example)
    return sum(bool(batch.learn_BT[place.row, place.begin : place.end].any()) for place in places)
