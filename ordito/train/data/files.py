"""Files of records: JSON lines, JSON lists, plain text, each gzipped or not. Their contents are not trusted."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

from ordito.errors import OrditoError
from ordito.train.data.arrow import parquet_records

if TYPE_CHECKING:
    from ordito.train.task import Record

MAX_RECORD = 256 << 20
"""Largest record, in bytes: a line of JSON, or a text."""

MAX_LIST = 1 << 30
"""Largest JSON list, in bytes: it is read as a whole."""

MAX_DEPTH = 64
"""Deepest nesting of lists and objects: functions on records may recurse."""

_ENDS = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class File:
    """A file whose name ends in .jsonl, .json or .txt (each also with .gz appended), or in .parquet."""

    path: Path

    def read(self, begin: int) -> Iterator[tuple[str, Record]]:
        """Its records from index `begin` on, each with its place. Raises `OrditoError` for the first that is invalid."""
        match kind_of(self.path):
            case "jsonl":
                return _json_lines(self.path, begin)
            case "json":
                return _json(self.path, begin)
            case "txt":
                return _texts(self.path, begin)
            case _:
                return parquet_records(self.path, begin)

    def identity(self, quick: bool) -> str:
        """Kind, size and SHA-256 of the file's contents; `quick` hashes the first and last MiB only."""
        digest = hashlib.sha256()
        with _reading(self.path), open(self.path, "rb") as file:
            size = self.path.stat().st_size
            if quick and size > 2 * _ENDS:
                digest.update(file.read(_ENDS))
                file.seek(-_ENDS, 2)
                digest.update(file.read())
            else:
                digest = hashlib.file_digest(file, "sha256")
        return f"{kind_of(self.path)} {size} {digest.hexdigest()}"


def kind_of(path: Path) -> str | None:
    """jsonl, json, txt or parquet, by the file's name; None for other files."""
    name = path.name.lower()
    kind = name.removesuffix(".gz").rpartition(".")[2]
    return kind if kind in ("jsonl", "json", "txt") or name.endswith(".parquet") else None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:  # EOFError, zlib.error: a truncated or damaged gzip
        raise OrditoError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    packed = path.name.lower().endswith(".gz")
    with _reading(path), cast(IO[bytes], gzip.open(path, "rb") if packed else open(path, "rb")) as file:
        yield file


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """The lines of a file, each with its place."""
    with _opened(path) as file:
        number = 0
        while line := file.readline(MAX_RECORD + 1):
            number += 1
            if len(line) > MAX_RECORD:
                raise OrditoError(f"{path}:{number}: the line is longer than {MAX_RECORD:,} bytes, expected one record a line")
            yield f"{path}:{number}", line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line


def _json_lines(path: Path, begin: int) -> Iterator[tuple[str, Record]]:
    for number, (place, line) in enumerate((place, line) for place, line in _lines(path) if not line.isspace()):
        if number >= begin:
            yield place, _object(_parsed(line, place, "one object a line"), place)


def _json(path: Path, begin: int) -> Iterator[tuple[str, Record]]:
    """The objects of a list, or of JSON lines, which are often named .json too."""
    with _opened(path) as file:
        if file.read(len(_BYTE_ORDER_MARK)) != _BYTE_ORDER_MARK:
            file.seek(0)
        first = b" "
        while first.isspace():
            first = file.read(1)
        whole = first + file.read(MAX_LIST) if first == b"[" else b""
    if first != b"[":
        yield from _json_lines(path, begin)
        return
    if len(whole) > MAX_LIST:
        raise OrditoError(
            f"{path}: is larger than {MAX_LIST:,} bytes, expected less of a list; write it as .jsonl, one object a line"
        )
    for number, item in enumerate(_parsed(whole, str(path), "a list of objects")[begin:], begin + 1):
        place = f"{path} item {number}"
        yield place, _object(item, place)


def _texts(path: Path, begin: int) -> Iterator[tuple[str, Record]]:
    """The whole file as one text, or, if lines of a single `%` separate items (the format of fortune), each item."""
    for number, (place, text) in enumerate(_items(path)):
        if number >= begin:
            yield place, {"text": _decoded(text, place)}


def _items(path: Path) -> Iterator[tuple[str, bytes]]:
    held: list[bytes] = []
    size, begun, several = 0, "", False
    for place, line in _lines(path):
        if line.rstrip(b"\r\n") != b"%":
            begun = begun if held else place
            held.append(line)
            size += len(line)
            if size > MAX_RECORD:
                raise OrditoError(
                    f"{begun}: the text is longer than {MAX_RECORD:,} bytes; divide it by lines that are only %, or into files"
                )
            continue
        several = True
        if text := b"".join(held).strip(b"\r\n"):
            yield begun, text
        held, size = [], 0
    text = b"".join(held)
    if several:
        text = text.strip(b"\r\n")
    if text and not text.isspace():
        yield begun if several else str(path), text


def _decoded(text: bytes, place: str) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise OrditoError(f"{place}: is no UTF-8 text at byte {error.start + 1}; convert the file to UTF-8") from None


def _parsed(text: bytes, place: str, expected: str) -> Any:
    decoded = _decoded(text, place)
    try:
        value = json.loads(decoded)
    except RecursionError:
        _too_deep(place)
    except ValueError as error:  # not JSON, or an integer of thousands of digits
        raise OrditoError(f"{place}: is no JSON ({error}), expected {expected}") from None
    if decoded.count("[") + decoded.count("{") > MAX_DEPTH and not _shallow(value):
        _too_deep(place)
    return value


def _too_deep(place: str) -> NoReturn:
    raise OrditoError(f"{place}: is nested more than {MAX_DEPTH} deep, expected a record") from None


def _shallow(value: Any) -> bool:
    """Whether a value is nested at most `MAX_DEPTH` deep; without recursion, which could overflow the stack."""
    level = [value]
    for _ in range(MAX_DEPTH):
        below = [part for item in level for part in (item.values() if isinstance(item, dict) else item)]
        level = [part for part in below if isinstance(part, dict | list)]
        if not level:
            return True
    return False


def _object(value: Any, place: str) -> Record:
    if not isinstance(value, dict):
        raise OrditoError(f"{place}: is a {type(value).__name__}, expected an object with the fields of a record")
    return value
