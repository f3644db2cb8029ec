"""Preparing training data: from sources to rows of examples."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ordito.errors import OrditoError, OrditoWarning
from ordito.train.data.cutting import Counts, Cutter
from ordito.train.data.maker import Maker, Report
from ordito.train.data.order import Order
from ordito.train.data.records import Source, sources_of
from ordito.train.data.shards import FORMAT, MOST_EXAMPLES, Shards
from ordito.train.data.stream import STREAMED_EXAMPLES, Stream
from ordito.train.examples import Example
from ordito.train.task import Task


class Rows(Protocol):
    """Examples, and in which rows each optimizer step takes them."""

    def __getitem__(self, number: int) -> Example: ...

    def rows(self, step: int) -> list[list[int]]:
        """The rows of an optimizer step (0, 1, ...): lists of indices of examples. Steps may be asked for in any order."""

    def steps(self, epochs: float) -> int:
        """Optimizer steps of `epochs` epochs. Raises `OrditoError` if that is not known before the data are read."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Tokens of each step of the first epoch, padding included."""

    @property
    def utilisation(self) -> float:
        """The share of tokens that are not padding."""


class Dataset(Protocol):
    """Examples made from records, and their counts."""

    @property
    def key(self) -> str:
        """A hash of everything that the examples depend on."""

    @property
    def counts(self) -> Counts:
        """Counts of records and examples; of a stream, so far."""

    def first(self, count: int) -> list[Example]:
        """The first `count` examples, or all if there are fewer."""

    def ordered(self, batch_size: int, pack: bool, seed: int) -> Rows:
        """The examples in rows, `batch_size` per optimizer step over all processes, in an order that depends on `seed`."""


@dataclass(frozen=True)
class Prepared:
    """A `Dataset` that is read completely before training."""

    shards: Shards
    counts: Counts
    length: int
    key: str

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, number: int) -> Example:
        return self.shards[number]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example."""
        return self.shards.lengths

    def first(self, count: int) -> list[Example]:
        """See `Dataset`."""
        return [self.shards[number] for number in range(min(count, len(self)))]

    def ordered(self, batch_size: int, pack: bool, seed: int) -> Rows:
        """See `Dataset` and `Order`."""
        return _Ordered(self.shards, Order(self.lengths, batch_size, self.length, pack, seed))


@dataclass(frozen=True)
class _Ordered:
    shards: Shards
    order: Order

    def __getitem__(self, number: int) -> Example:
        return self.shards[number]

    def rows(self, step: int) -> list[list[int]]:
        return self.order.rows(step)

    def steps(self, epochs: float) -> int:
        return self.order.steps(epochs)

    @property
    def sizes(self) -> NDArray[np.int64]:
        return self.order.sizes

    @property
    def utilisation(self) -> float:
        return self.order.utilisation


def prepare(
    sources: Sequence[str],
    task: Task,
    *,
    length: int,
    folder: Path,
    fingerprint: str,
    split_long: bool,
    text_length: int | None = None,
    stream: bool = False,
    report: Report | None = None,
) -> Dataset:
    """The examples that `task` reads from sources (see `read_records`), in rows of at most `length` tokens, cached on disk.

    A text has at most `text_length` tokens, by default `length`; a longer one is split with `split_long`, else truncated (see
    `Cutter`). The cache is a folder below `folder`, named by a hash of all that the examples depend on: the sources' contents,
    these settings, and `fingerprint`, which stands for tokenizer, chat template and the task's settings. Finished shards are
    reused, and an interrupted preparation resumes. With `stream`, shards are made while training asks for them.

    `report` is called with the counts as they grow. Warns (`OrditoWarning`) where many examples are truncated or left out.
    Raises `OrditoError`, with its place, for the first record that is invalid or that the task refuses, and if no example is
    left.
    """
    found = sources_of(sources, stream=stream)
    most_tokens = text_length or length
    cutter = Cutter(most_tokens, task.packs, split_long)
    most = STREAMED_EXAMPLES if stream else MOST_EXAMPLES
    key = _key(found, cutter, fingerprint, most, quick=stream)
    maker = Maker(found, task, cutter, Path(folder) / key[:16], key, most, report)
    made = 0
    with maker.lock:  # held throughout, so that several processes do not read the same records in turn
        while maker.make(made):
            made += 1
            if stream:
                break
    counts = maker.counts(made)
    if not made:
        raise _nothing(sources, counts, most_tokens)
    for warning in counts.warnings(most_tokens):
        warnings.warn(warning, OrditoWarning, stacklevel=2)
    return Stream(maker, length) if stream else Prepared(Shards(maker.folder), counts, length, key)


def _key(sources: Sequence[Source], cutter: Cutter, fingerprint: str, most: int, *, quick: bool) -> str:
    """A hash of everything that the shards depend on."""
    parts = [FORMAT, [source.identity(quick) for source in sources], asdict(cutter), fingerprint, most]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _nothing(sources: Sequence[str], counts: Counts, length: int) -> OrditoError:
    what = ", ".join(sources)
    if not counts.read:
        return OrditoError(f"{what}: holds no records, expected at least one to learn from")
    return OrditoError(
        f"{what}: of {counts.read} records nothing is left to learn within {length} tokens; "
        "the texts may be longer before what is learned of them begins: try a larger length"
    )
