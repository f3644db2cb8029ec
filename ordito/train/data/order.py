"""Which examples share a row, and which rows an optimizer step takes: a pure function of lengths, settings and seed.

Nothing is remembered and nothing drawn along the way, so a run that is resumed, or that has another number of processes,
finds the same rows at the same step.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from functools import lru_cache
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike, NDArray

_PACKED_TOGETHER = 4096
_BATCHES_TOGETHER = 8

Numbers = NDArray[np.int64]


class Order:
    """The rows of each optimizer step, epoch after epoch, for examples of `lengths` tokens.

    With `pack`, examples share rows of at most `length` tokens without being truncated. Which of them share a row is settled
    once, by best-fit decreasing (Johnson et al., SIAM J. Comput. 3(4), 1974) within stretches of a shuffled list. Without it,
    each example is a row.

    Every epoch shuffles the rows anew, by `seed` and its own number, and has each of them once. Its steps have `batch_size`
    rows, or fewer if the rows cannot be divided evenly: then the steps of an epoch differ by at most one row. So no step is
    much smaller than the others, and none crosses into the next epoch, where an example might occur in it twice. To save
    padding, rows are sorted by length within stretches of a few steps; in a step the longest come first.
    """

    def __init__(self, lengths: ArrayLike, batch_size: int, length: int, pack: bool, seed: int | tuple[int, ...]) -> None:
        tokens = np.asarray(lengths, dtype=np.int64)
        assert min(len(tokens), batch_size) > 0, f"{len(tokens)} examples in steps of {batch_size} rows"
        self._seed = seed
        self._members, self._ends = np.arange(len(tokens)), np.arange(1, len(tokens) + 1)
        if pack:
            assert tokens.max() <= length, f"an example has {tokens.max()} tokens, of at most {length}"
            rows = best_fit(tokens, shuffled(len(tokens), seed, 0), length)
            self._members = np.fromiter(chain.from_iterable(rows), np.int64, len(tokens))
            self._ends = np.cumsum([len(row) for row in rows])
        self._tokens: Numbers = np.add.reduceat(tokens[self._members], np.append(0, self._ends[:-1]))
        self.n_rows = len(self._ends)
        self.steps_per_epoch = -(-self.n_rows // batch_size)
        self._bounds = np.arange(self.steps_per_epoch + 1) * self.n_rows // self.steps_per_epoch
        self._plan = lru_cache(maxsize=2)(self._planned)

    def rows(self, step: int) -> list[list[int]]:
        """The rows of an optimizer step (0, 1, ...): lists of indices of examples."""
        epoch, number = divmod(step, self.steps_per_epoch)
        order, batches = self._plan(epoch)
        batch = batches[number]
        return [self._row(row) for row in order[self._bounds[batch] : self._bounds[batch + 1]]]

    def steps(self, epochs: float) -> int:
        """Optimizer steps of `epochs` epochs, at least one."""
        return max(1, round(epochs * self.steps_per_epoch))

    @property
    def sizes(self) -> Numbers:
        """Tokens of each step of the first epoch, padding included, if its rows are as long as its longest."""
        order, batches = self._plan(0)
        widest = np.maximum.reduceat(self._tokens[order], self._bounds[:-1])
        sizes: Numbers = (widest * np.diff(self._bounds))[batches]
        return sizes

    @property
    def utilisation(self) -> float:
        """Share of the first epoch's tokens that are no padding."""
        return float(self._tokens.sum() / max(int(self.sizes.sum()), 1))

    def _row(self, row: int) -> list[int]:
        begin = self._ends[row - 1] if row else 0
        members: list[int] = self._members[begin : self._ends[row]].tolist()
        return members

    def _planned(self, epoch: int) -> tuple[Numbers, Numbers]:
        """Of an epoch: all rows, batch after batch, and the order of the batches."""
        order = shuffled(self.n_rows, self._seed, 1, epoch)
        # A short epoch keeps some chance in it: at least four stretches.
        together = min(max(self.steps_per_epoch // 4, 1), _BATCHES_TOGETHER)
        stretch = np.repeat(np.arange(self.steps_per_epoch) // together, np.diff(self._bounds))
        order = order[np.lexsort((-self._tokens[order], stretch))]
        return order, shuffled(self.steps_per_epoch, self._seed, 2, epoch)


def shuffled(count: int, seed: int | tuple[int, ...], *key: int) -> Numbers:
    """0 to count - 1 in an order that `seed` and `key` decide.

    Sorted by raw bits of PCG64, whose stream numpy promises never to change; that of its own shuffling it does not (NEP 19).
    """
    bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)).random_raw(count)
    return np.argsort(bits, kind="stable")


def best_fit(lengths: Numbers, order: Numbers, length: int) -> list[list[int]]:
    """Examples packed into rows of at most `length` tokens by best-fit decreasing, in O(n log n).

    For each stretch of `order`, longest first, each example goes into the open row with the least sufficient room. Examples of
    equal length stay in `order`.
    """
    rows: list[list[int]] = []
    for begin in range(0, len(order), _PACKED_TOGETHER):
        stretch = order[begin : begin + _PACKED_TOGETHER]
        stretch = stretch[np.argsort(-lengths[stretch], kind="stable")]
        open_rows: list[tuple[int, int]] = []  # (free tokens, row), sorted
        for example, tokens in zip(stretch.tolist(), lengths[stretch].tolist(), strict=True):
            place = bisect_left(open_rows, (tokens,))
            if place < len(open_rows):
                free, row = open_rows.pop(place)
                rows[row].append(example)
            else:
                free, row = length, len(rows)
                rows.append([example])
            if free > tokens:
                insort(open_rows, (free - tokens, row))
    return rows
