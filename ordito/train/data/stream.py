"""Streamed data, too large to be read before training: shards are made on demand, and cached for later epochs and runs."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ordito.errors import OrditoError
from ordito.train.data.cutting import Counts
from ordito.train.data.maker import Maker
from ordito.train.data.order import Order
from ordito.train.data.shards import Shard
from ordito.train.examples import Example

STREAMED_EXAMPLES = 8192
"""Examples of a shard: shuffling is within shards."""


class Stream:
    """A `Dataset` whose shards are made on demand, in rows of `length` tokens."""

    def __init__(self, maker: Maker, length: int) -> None:
        self.maker, self.length = maker, length
        self._ends: list[int] = []
        self._shard = lru_cache(maxsize=3)(maker.shard)

    def __getitem__(self, number: int) -> Example:
        shard = bisect_right(self._ends, number)
        return self._shard(shard)[number - self.begin(shard)]

    @property
    def key(self) -> str:
        """See `Dataset`."""
        return self.maker.fingerprint

    @property
    def counts(self) -> Counts:
        """Counts of the shards made so far."""
        return self.maker.counts(len(self._ends))

    def first(self, count: int) -> list[Example]:
        """The first `count` examples, at most those of the first shard."""
        shard = self.shard(0)
        return [] if shard is None else [shard[number] for number in range(min(count, len(shard)))]

    def ordered(self, batch_size: int, pack: bool, seed: int) -> StreamOrder:
        """The examples in rows; see `StreamOrder`."""
        return StreamOrder(self, batch_size, pack, seed)

    def shard(self, number: int) -> Shard | None:
        """A shard, made now if it does not exist; None if the data end before it."""
        while len(self._ends) <= number:
            last = len(self._ends)
            if not self.maker.make(last):
                return None
            self._ends.append(self.begin(last) + len(self._shard(last)))
        return self._shard(number)

    def begin(self, shard: int) -> int:
        """The index of the first example of a shard."""
        return self._ends[shard - 1] if shard else 0

    @property
    def n_shards(self) -> int:
        """The number of shards made so far; that of all once `shard` has returned None."""
        return len(self._ends)


class StreamOrder:
    """The rows of each optimizer step of a stream, as `Order` gives them, but always `batch_size` rows per step.

    Shards follow each other, and start again from the first after the last. Each visit of a shard (a turn) orders its rows by
    the seed and the number of the turn. Steps cross the borders of shards. A step far ahead needs the lengths of all shards
    before it, some hundredths of a second each, but not their records.
    """

    def __init__(self, stream: Stream, batch_size: int, pack: bool, seed: int) -> None:
        self.stream, self.batch_size, self.pack, self.seed = stream, batch_size, pack, seed
        self._ends: list[int] = []
        self._rows_of = lru_cache(maxsize=3)(self._rows)

    def __getitem__(self, number: int) -> Example:
        return self.stream[number]

    def rows(self, step: int) -> list[list[int]]:
        """The rows of an optimizer step (0, 1, ...): lists of indices of examples."""
        begin, end = step * self.batch_size, (step + 1) * self.batch_size
        while not self._ends or self._ends[-1] < end:
            self._ends.append(self._begin(len(self._ends)) + len(self._rows_of(len(self._ends))))
        found: list[list[int]] = []
        for turn in range(bisect_right(self._ends, begin), len(self._ends)):
            first = self._begin(turn)
            if first >= end:
                break
            found += self._rows_of(turn)[max(begin - first, 0) : end - first]
        return found

    def steps(self, epochs: float) -> int:
        """Raises `OrditoError`: the length of an epoch is not known before the data are read."""
        raise OrditoError(
            f"{epochs:g} epochs of data that are streamed have an unknown number of steps: set steps, or leave out stream"
        )

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Tokens of each step of the first shard, padding included."""
        return self._order(0)[0].sizes

    @property
    def utilisation(self) -> float:
        """The share of tokens that are not padding, in the first shard."""
        return self._order(0)[0].utilisation

    def _begin(self, turn: int) -> int:
        return self._ends[turn - 1] if turn else 0

    def _rows(self, turn: int) -> list[list[int]]:
        """All rows of a turn, in order."""
        order, first = self._order(turn)
        return [[first + number for number in row] for step in range(order.steps_per_epoch) for row in order.rows(step)]

    def _order(self, turn: int) -> tuple[Order, int]:
        """The order of a turn's shard, and the index of the shard's first example."""
        number = turn
        shard = self.stream.shard(number)
        if shard is None:
            number = turn % self.stream.n_shards
            shard = self.stream.shard(number)
        assert shard is not None, f"shard {number} is gone"
        return Order(shard.lengths, self.batch_size, self.stream.length, self.pack, (self.seed, turn)), self.stream.begin(
            number
        )
