"""Terms that several tasks share."""

from __future__ import annotations

from torch import Tensor

from ordito.train.batch import Batch
from ordito.train.chunked import chunked_sum
from ordito.train.forward import Forward
from ordito.train.losses import cross_entropy
from ordito.train.objective import Term


def next_token() -> Term:
    """-sum log p(token | what came before it) over the learned tokens, by their number."""

    def total(forward: Forward) -> Tensor:
        return chunked_sum(
            cross_entropy, forward.module.project, forward.before_nD, forward.head_parameters, forward.targets_n
        )

    return Term("loss", "token", total, count_learned)


def count_learned(batch: Batch) -> float:
    """Tokens that are learned."""
    return batch.n_learned


def count_examples(batch: Batch) -> float:
    """Examples of a batch."""
    return len(batch.places)
