"""Making shards from records, one after another; each continues where the previous one ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from filelock import FileLock

from ordito.errors import OrditoError
from ordito.train.data.cutting import Counts, Cutter
from ordito.train.data.records import Cursor, Source, records_after
from ordito.train.data.shards import Shard, ShardWriter, read_header, shard_path
from ordito.train.examples import Example
from ordito.train.task import Record, Task

Report = Callable[[Counts], None]
"""Called with the counts so far, every `_REPORT_EVERY` records."""

_REPORT_EVERY = 10_000


@dataclass
class _Reached:
    shards: int
    cursor: Cursor
    counts: Counts
    records: Iterator[tuple[Cursor, str, Record]]


@dataclass
class Maker:
    """Makes the shards of a folder; `fingerprint` identifies everything that they depend on.

    A shard holds whole records, and stores the cursor after the last of them and the counts so far. So a later process, also
    after a crash, continues after it and makes the same shards. An existing shard is never made again.
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
        # Processes of a run share the folder. The lock ends with its process; files that a killed one left are removed.
        ShardWriter(self.folder, self.fingerprint)
        self.lock = FileLock(self.folder / ".lock")
        with self.lock:
            for left in self.folder.glob(".*.tmp"):
                left.unlink(missing_ok=True)

    def make(self, number: int) -> bool:
        """Make a shard unless it exists; those before it must exist. False if the data end before it."""
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
        """An existing shard."""
        return Shard(shard_path(self.folder, number), self.fingerprint)

    def counts(self, shards: int) -> Counts:
        """The counts after the first `shards` shards."""
        header = read_header(self.folder)
        if header and header.shards == shards:
            return Counts(**header.counts)
        return Counts(**self.shard(shards - 1).note["counts"]) if shards else Counts()

    def _made(self, number: int) -> bool:
        at, self._reached = self._reader_after(number), None
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

    def _reader_after(self, shards: int) -> _Reached:
        """A reader at the end of the first `shards` shards: the one that made them, or a new one."""
        if self._reached and self._reached.shards == shards:
            return self._reached
        cursor = Cursor(*self.shard(shards - 1).note["cursor"]) if shards else Cursor()
        return _Reached(shards, cursor, self.counts(shards), records_after(cursor, self.sources))

    def _examples(self, place: str, record: Record, counts: Counts) -> Iterator[Example]:
        try:
            example = self.task.read(record)
        except OrditoError as error:
            raise OrditoError(f"{place}: {error}") from None
        return self.cutter.fit(example, counts)
