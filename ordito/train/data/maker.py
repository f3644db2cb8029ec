"""Shards made of records, one after another, each from where the one before it ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from filelock import FileLock

from ordito.errors import OrditoError
from ordito.train.data.cutting import Counts, Cutter
from ordito.train.data.records import Cursor, Source, records_behind
from ordito.train.data.shards import Shard, ShardWriter, read_header, shard_path
from ordito.train.examples import Example
from ordito.train.task import Record, Task

Report = Callable[[Counts], None]
"""Is told what has been counted, every so many records."""

_REPORT_EVERY = 10_000


@dataclass
class _Reached:
    shards: int
    cursor: Cursor
    counts: Counts
    records: Iterator[tuple[Cursor, str, Record]]


@dataclass
class Maker:
    """Makes the shards of a folder: `fingerprint` names all that they are a function of.

    A shard ends with a record, and notes the cursor behind it and the counts so far; so whoever comes later, after a crash
    as well, goes on behind it and makes what would have been made. A shard that is there is never made again.
    """

    sources: Sequence[Source]
    task: Task
    cutter: Cutter
    folder: Path
    fingerprint: str
    most_examples: int
    report: Report | None = None
    lock: FileLock = field(init=False)
    _reached: _Reached | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        # Processes of one run share the folder; the lock dies with its process, and what a killed one was writing goes.
        ShardWriter(self.folder, self.fingerprint)
        self.lock = FileLock(self.folder / ".lock")
        with self.lock:
            for left in self.folder.glob(".*.tmp"):
                left.unlink(missing_ok=True)

    def make(self, number: int) -> bool:
        """See to it that a shard is there, those before it being there; False if the data end before it."""
        path = shard_path(self.folder, number)
        if path.is_file():
            return True
        with self.lock:
            if path.is_file():
                return True
            if read_header(self.folder):
                return False
            return self._made(number)

    def shard(self, number: int) -> Shard:
        """A shard that is there."""
        return Shard(shard_path(self.folder, number), self.fingerprint)

    def counts(self, shards: int) -> Counts:
        """What had been counted when so many shards were made."""
        header = read_header(self.folder)
        if header and header.shards == shards:
            return Counts(**header.counts)
        return Counts(**self.shard(shards - 1).note["counts"]) if shards else Counts()

    def _made(self, number: int) -> bool:
        at, self._reached = self._behind(number), None
        writer = ShardWriter(self.folder, self.fingerprint, number, self.most_examples)
        for cursor, place, record in at.records:
            at.cursor, at.counts.read = cursor, at.counts.read + 1
            for example in self._examples(place, record, at.counts):
                writer.add(example)
            if self.report and at.counts.read % _REPORT_EVERY == 0:
                self.report(at.counts)
            if writer.full:
                break
        if writer.flush({"cursor": at.cursor, "counts": asdict(at.counts)}):
            self._reached = replace(at, shards=number + 1)
            return True
        writer.finish(asdict(at.counts))
        return False

    def _behind(self, shards: int) -> _Reached:
        """Where so many shards end: the reader that made them, or a new one."""
        if self._reached and self._reached.shards == shards:
            return self._reached
        cursor = Cursor(*self.shard(shards - 1).note["cursor"]) if shards else Cursor()
        return _Reached(shards, cursor, self.counts(shards), records_behind(cursor, self.sources))

    def _examples(self, place: str, record: Record, counts: Counts) -> Iterator[Example]:
        try:
            example = self.task.read(record)
        except OrditoError as error:
            raise OrditoError(f"{place}: {error}") from None
        return self.cutter.fit(example, counts)
