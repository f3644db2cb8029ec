"""Iterating over the records of files, folders and data sets, each with its place for error messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ordito.errors import OrditoError
from ordito.train.data.files import File, kind_of
from ordito.train.data.hub import Hub

if TYPE_CHECKING:
    from ordito.train.task import Record

_KNOWN = ".jsonl, .json, .txt (each also .gz) or .parquet"


class Source(Protocol):
    """A file or data set of records."""

    def read(self, begin: int) -> Iterator[tuple[str, Record]]:
        """The records from index `begin` on, each with its place."""

    def identity(self, quick: bool) -> str:
        """Text that changes when the records do; `quick` may overlook a change inside a file that keeps its size."""


class Cursor(NamedTuple):
    """A reading position: the index of a source, and the number of its records that were read."""

    source: int = 0
    record: int = 0


def read_records(sources: Sequence[str], *, stream: bool = False) -> Iterator[tuple[str, Record]]:
    """The records of files (.jsonl, .json, .parquet, .txt), folders of them (sorted by name), and `hf:NAME[:CONFIG][#SPLIT]`.

    Each comes with its place ("chats.jsonl:17"), for messages; `stream` fetches data sets of Hugging Face row by row. Raises
    `OrditoError` for a source that cannot be read, and for the first record that is invalid.
    """
    for _, place, record in records_after(Cursor(), sources_of(sources, stream=stream)):
        yield place, record


def records_after(begin: Cursor, sources: Sequence[Source]) -> Iterator[tuple[Cursor, str, Record]]:
    """The records after a cursor, each as (cursor after it, place, record)."""
    for number in range(begin.source, len(sources)):
        count = begin.record if number == begin.source else 0
        for place, record in sources[number].read(count):
            count += 1
            yield Cursor(number, count), place, record


def sources_of(names: Sequence[str], *, stream: bool = False) -> list[Source]:
    """The sources of these names, folders as their files. Raises `OrditoError` for one that cannot be read."""
    return [source for name in names for source in _sources(name, stream)]


def _sources(name: str, stream: bool) -> list[Source]:
    if name.startswith("hf:"):
        return [Hub.named(name, stream)]
    path = Path(name)
    if path.is_dir():
        files = sorted(found for found in path.rglob("*") if _visible(found.relative_to(path)) and found.is_file())
        known: list[Source] = [File(found) for found in files if kind_of(found)]
        if not known:
            raise OrditoError(f"{path}: has no file of records, expected names that end in {_KNOWN}")
        return known
    if not path.exists():
        raise OrditoError(f"{path}: there is no such file or folder (a data set of Hugging Face is written hf:NAME)")
    if not path.is_file() or kind_of(path) is None:
        raise OrditoError(f"{path}: is no file of records, expected a name that ends in {_KNOWN}")
    return [File(path)]


def _visible(path: Path) -> bool:
    return not any(part.startswith(".") for part in path.parts)
