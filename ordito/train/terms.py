"""Terms that several tasks share."""

from __future__ import annotations

import torch
from torch import Tensor

from ordito.train.batch import Batch
from ordito.train.chunked import chunked_sum
from ordito.train.forward import Forward
from ordito.train.losses import cross_entropy
from ordito.train.objective import Term


def next_token() -> Term:
    """-sum log p(token | what came before it) over the learned tokens, by their number."""

    def total(forward: Forward) -> Tensor:
        return chunked_sum(cross_entropy, forward.module.project, forward.before_nD, forward.head_parameters, forward.targets_n)

    return Term("next_token", total, count_learned)


def language_model_by_text() -> Term:
    """-mean log p(token | what came before it) over the learned tokens of each text, by the number of texts.

    Short texts then weigh as much as long ones: GPT-1's auxiliary objective (Radford et al. 2018, section 3.2; the published
    code divides each row by its own tokens first).
    """

    def total(forward: Forward) -> Tensor:
        weights_n = _weights_by_text(forward.batch)[forward.batch.learn_BT]
        return chunked_sum(
            cross_entropy, forward.module.project, forward.before_nD, forward.head_parameters, forward.targets_n, weights_n
        )

    return Term("language_model", total, count_texts)


def _weights_by_text(batch: Batch) -> Tensor:
    """1 / the learned tokens of the text that a token stands in, (B, T)."""
    weights_BT = torch.zeros_like(batch.learn_BT, dtype=torch.float32)
    for place in (place for example in batch.places for place in example):
        span = (place.row, slice(place.begin, place.end))
        weights_BT[span] = 1 / batch.learn_BT[span].sum().clamp(min=1)
    return weights_BT


def count_learned(batch: Batch) -> float:
    """Tokens that are learned."""
    return batch.n_learned


def count_examples(batch: Batch) -> float:
    """Examples of a batch."""
    return len(batch.places)


def count_texts(batch: Batch) -> float:
    """Texts of all examples of a batch, those left out that have nothing to learn."""
    places = (place for example in batch.places for place in example)
    return sum(bool(batch.learn_BT[place.row, place.begin : place.end].any()) for place in places)
