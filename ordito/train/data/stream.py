"""Data that are too large to be read first: shards are made while training asks for them, and kept for who comes again."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache

from ordito.errors import OrditoError
from ordito.train.data.cutting import Counts
from ordito.train.data.maker import Maker
from ordito.train.data.order import Order
from ordito.train.data.shards import Shard
from ordito.train.examples import Example

STREAMED_EXAMPLES = 8192
"""Examples of a shard, which is what is shuffled at a time."""


class Stream:
    """A dataset whose shards come when they are asked for."""

    def __init__(self, maker: Maker) -> None:
        self.maker = maker
        self._ends: list[int] = []
        self._shard = lru_cache(maxsize=3)(maker.shard)

    def __getitem__(self, number: int) -> Example:
        shard = bisect_right(self._ends, number)
        return self._shard(shard)[number - self.begin(shard)]

    @property
    def counts(self) -> Counts:
        """Until now."""
        return self.maker.counts(len(self._ends))

    def first(self, count: int) -> list[Example]:
        """The first examples, as many as the first shard has of so many."""
        shard = self.shard(0)
        return [] if shard is None else [shard[number] for number in range(min(count, len(shard)))]

    def ordered(self, batch_size: int, pack: bool, seed: int) -> StreamOrder:
        """The examples in rows; see `StreamOrder`."""
        return StreamOrder(self, batch_size, pack, seed)

    def shard(self, number: int) -> Shard | None:
        """A shard, made now if need be; None if the data end before it."""
        while len(self._ends) <= number:
            here = len(self._ends)
            if not self.maker.make(here):
                return None
            self._ends.append(self.begin(here) + len(self._shard(here)))
        return self._shard(number)

    def begin(self, shard: int) -> int:
        """The number of the first example of a shard."""
        return self._ends[shard - 1] if shard else 0

    @property
    def n_shards(self) -> int:
        """Shards until now; all of them once `shard` has said None."""
        return len(self._ends)


class StreamOrder:
    """The rows of each optimizer step of a stream, with the face of `Order`: `batch_size` rows a step, always.

    Shards come one behind the other, and again from the first when all have been; each time one comes its rows are a function
    of the seed and of how many have come before. Steps go across their borders. To come to a step far ahead, the lengths of all
    shards before it are read, some hundredths of a second each; the records are not.
    """

    def __init__(self, stream: Stream, batch_size: int, pack: bool, seed: int) -> None:
        self.stream, self.batch_size, self.pack, self.seed = stream, batch_size, pack, seed
        self._ends: list[int] = []
        self._rows_of = lru_cache(maxsize=3)(self._rows)

    def __getitem__(self, number: int) -> Example:
        return self.stream[number]

    def rows(self, step: int) -> list[list[int]]:
        """The rows of an optimizer step (0, 1, ...): the numbers of the examples of each."""
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
        """Not known. Raises `OrditoError` that asks for steps."""
        raise OrditoError(
            f"{epochs:g} epochs of data that are streamed have an unknown number of steps: set steps, or leave out stream"
        )

    @property
    def utilisation(self) -> float:
        """Share of tokens that are no padding, of the first shard."""
        return self._order(0)[0].utilisation

    def _begin(self, turn: int) -> int:
        return self._ends[turn - 1] if turn else 0

    def _rows(self, turn: int) -> list[list[int]]:
        """All rows of the shard whose turn it is, in order."""
        order, first = self._order(turn)
        return [[first + number for number in row] for step in range(order.steps_per_epoch) for row in order.rows(step)]

    def _order(self, turn: int) -> tuple[Order, int]:
        number = turn
        shard = self.stream.shard(number)
        if shard is None:
            number = turn % self.stream.n_shards
            shard = self.stream.shard(number)
        assert shard is not None, f"shard {number} is gone"
        length = self.stream.maker.cutter.length
        return Order(shard.lengths, self.batch_size, length, self.pack, (self.seed, turn)), self.stream.begin(number)
