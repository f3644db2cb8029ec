"""Reading GGUF, the format of llama.cpp: metadata and tensors in one file, or in a numbered set of files.

    magic "GGUF", version u32, tensor count u64, metadata count u64
    metadata:  key string, type u32, value                        (string: length u64, bytes; array: type u32, count u64)
    tensors:   name string, dims u32, sizes u64[dims], type u32, offset u64
    padding to the alignment, then the tensors' data at their offsets

The layout is that of ggml's `docs/gguf.md`. Sizes are stored fastest first; here they are reversed into PyTorch's order.
The file is hostile until checked: every count and length is compared with the bytes that are left before anything is
allocated or read, so that the memory needed to open a file is bounded by the size of its metadata.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ordito.checkpoint.stored import DOWNLOAD_AGAIN, StoredTensor, checked_nbytes, let_go, map_file, shown
from ordito.errors import CheckpointError
from ordito.strings import Strings

# ggml's number of a tensor type -> our encoding.
ENCODINGS_OF_GGML = {
    0: "f32",
    1: "f16",
    2: "q4_0",
    3: "q4_1",
    6: "q5_0",
    7: "q5_1",
    8: "q8_0",
    10: "q2_k",
    11: "q3_k",
    12: "q4_k",
    13: "q5_k",
    14: "q6_k",
    16: "iq2_xxs",
    17: "iq2_xs",
    18: "iq3_xxs",
    19: "iq1_s",
    20: "iq4_nl",
    21: "iq3_s",
    22: "iq2_s",
    23: "iq4_xs",
    24: "i8",
    25: "i16",
    26: "i32",
    27: "i64",
    28: "f64",
    29: "iq1_m",
    30: "bf16",
    34: "tq1_0",
    35: "tq2_0",
    39: "mxfp4",
}

# Types that exist or existed, which we do not decode: named in the message.
_UNSUPPORTED = {
    4: "Q4_2",
    5: "Q4_3",
    9: "Q8_1",
    15: "Q8_K",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
    40: "NVFP4",
    41: "Q1_0",
}

# Number of a metadata type -> its code, which means the same to `struct` and to numpy. Booleans are read as bytes first.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 6, 7, 8, 9

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")

_MAX_DIMENSIONS = 4  # ggml's GGML_MAX_DIMS
_MAX_NESTING = 4  # arrays of arrays; none are seen in published files, and llama.cpp refuses them all
_MAX_NAME = 65535  # of keys, by the specification; tensor names are shorter in practice
_MIN_ENTRY = 8 + 4 + 1  # bytes of the shortest metadata entry
_MIN_TENSOR = 8 + 4 + 4 + 8  # bytes of the shortest tensor description


@dataclass(frozen=True, slots=True, eq=False)
class GGUFFile:
    """An opened GGUF file, or the `files` of a split model as one.

    `header_bytes`, the bytes before the data, and `begins`, the offset in the file of each tensor's data, are of the first
    file. Metadata values are int, float, bool, str; arrays of numbers are numpy arrays, other arrays lists. A 32-bit float is
    given as the shortest decimal that rounds to it (1e-05, not 9.999999747378752e-06): the number that its author wrote.
    """

    path: Path
    files: tuple[Path, ...]
    version: int
    alignment: int
    metadata: dict[str, object]
    tensors: dict[str, StoredTensor]
    header_bytes: int
    begins: dict[str, int]


class _Reader:
    """A position in a mapped file. Every read is first checked against the end of the file."""

    __slots__ = ("buffer", "bytes", "path", "position", "size")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.buffer = map_file(path)
        self.bytes = np.frombuffer(self.buffer, np.uint8)
        self.size = len(self.buffer)
        self.position = 0

    def error(self, what: str, advice: str = DOWNLOAD_AGAIN) -> CheckpointError:
        return CheckpointError(f"{self.path}: {what}; {advice}")

    def need(self, nbytes: int, what: str) -> None:
        """Raise `CheckpointError` unless `nbytes` more bytes are left in the file."""
        left = self.size - self.position
        if nbytes > left:
            raise self.error(f"{what} takes at least {nbytes} bytes at offset {self.position}, but {left} are left")

    def number(self, form: struct.Struct, what: str) -> int | float:
        self.need(form.size, what)
        value: int | float = form.unpack_from(self.buffer, self.position)[0]
        self.position += form.size
        return value

    def u32(self, what: str) -> int:
        return int(self.number(_U32, what))

    def u64(self, what: str) -> int:
        return int(self.number(_U64, what))

    def string(self, what: str, errors: str = "strict", longest: int | None = None) -> str:
        length = self.u64(f"the length of {what}")
        if longest is not None and length > longest:
            raise self.error(f"{what}: got a length of {length} bytes, expected at most {longest}")
        self.need(length, what)
        start, self.position = self.position, self.position + length
        try:
            return self.buffer[start : self.position].decode("utf-8", errors)
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8 ({error.reason} at byte {error.start})") from None

    def strings(self, count: int, what: str, errors: str) -> Strings:
        """Many strings, read by compiled code: a vocabulary has hundreds of thousands."""
        values = Strings()
        try:
            position = values.read(self.bytes, self.position, count, errors)
        except UnicodeDecodeError as error:
            raise self.error(f"{what}: string {len(values)} is not UTF-8 ({error.reason})") from None
        if position is None:
            raise self.error(f"{what}: string {len(values)} of {count} ends past the end of the file")
        self.position = position
        return values

    def value(self, kind: int, what: str, errors: str, depth: int = 0) -> object:
        if kind == _STRING:
            return self.string(what, errors)
        if kind == _ARRAY:
            return self.array(what, errors, depth + 1)
        if kind not in NUMBERS:
            raise self.error(f"{what}: got the value type {kind}, expected 0 to 12")
        number = self.number(struct.Struct("<" + NUMBERS[kind]), what)
        if kind == _FLOAT32:
            return float(str(np.float32(number)))
        if kind == _BOOL:
            if number > 1:
                raise self.error(f"{what}: got the byte {number} for a truth value, expected 0 or 1")
            return bool(number)
        return number

    def array(self, what: str, errors: str, depth: int) -> object:
        if depth > _MAX_NESTING:
            raise self.error(f"{what}: got arrays nested deeper than {_MAX_NESTING}")
        kind = self.u32(f"the element type of {what}")
        count = self.u64(f"the length of {what}")
        if kind in NUMBERS:
            return self.numbers(kind, count, what)
        # The shortest element: an empty string is its length; an empty array its type and its length.
        self.need(count * (12 if kind == _ARRAY else 8), f"{what}, an array of {count} elements,")
        if kind == _STRING:
            return self.strings(count, what, errors)
        if kind == _ARRAY:
            return [self.array(what, errors, depth + 1) for _ in range(count)]
        raise self.error(f"{what}: got elements of type {kind}, expected 0 to 12")

    def numbers(self, kind: int, count: int, what: str) -> NDArray[np.generic]:
        dtype = np.dtype(NUMBERS[kind]).newbyteorder("<")
        self.need(count * dtype.itemsize, f"{what}, an array of {count} numbers,")
        # A copy, because metadata is not aligned in the file, and so that it may outlive the mapping.
        values: NDArray[np.generic] = np.frombuffer(self.buffer, dtype, count, self.position).astype(dtype.newbyteorder("="))
        self.position += count * dtype.itemsize
        if kind == _BOOL:
            if np.any(values > 1):  # type: ignore[operator]
                raise self.error(f"{what}: got a byte other than 0 and 1 among truth values")
            return values.astype(np.bool_)
        return values


def _read_header(reader: _Reader) -> tuple[int, int, int]:
    """Magic, version and counts -> (version, tensor count, metadata count)."""
    if reader.buffer[:4] != b"GGUF":
        raise reader.error(f"got the first bytes {reader.buffer[:4]!r}, expected b'GGUF'", "this is not a GGUF file")
    reader.position = 4
    version = reader.u32("the version")
    if version & 0xFFFF == 0 and version:
        raise reader.error("the file is big-endian, expected little-endian", "convert the model again, without --bigendian")
    if version not in (2, 3):
        raise reader.error(f"got GGUF version {version}, expected 2 or 3", "convert the model again with a recent tool")
    return version, reader.u64("the tensor count"), reader.u64("the metadata count")


def _read_metadata(reader: _Reader, count: int) -> tuple[dict[str, object], int]:
    """The metadata, and the alignment that they give."""
    reader.need(count * _MIN_ENTRY, f"metadata of {count} entries")
    metadata: dict[str, object] = {}
    alignment = 32
    for index in range(count):
        key = reader.string(f"the key of metadata entry {index}", longest=_MAX_NAME)
        what = f"metadata {shown(key)}"
        if key in metadata:
            raise reader.error(f"{what} appears twice")
        kind = reader.u32(f"the type of {what}")
        # Some converters write byte-level tokens that are parts of UTF-8 characters; the model still works, so they are read
        # with U+FFFD. Anything else that is not UTF-8 is damage.
        errors = "replace" if key.startswith("tokenizer.") else "strict"
        metadata[key] = reader.value(kind, what, errors)
        if key == "general.alignment":
            value = metadata[key]
            if kind != _UINT32 or not isinstance(value, int) or value < 1 or value & (value - 1):
                got = shown(str(value))
                raise reader.error(f"{what}: got {got} of type {kind}, expected a power of two, as an unsigned 32-bit integer")
            alignment = value
    return metadata, alignment


def _read_tensors(reader: _Reader, count: int, alignment: int) -> tuple[dict[str, StoredTensor], dict[str, int]]:
    """The tensors, and the offset in the file of each one's data.

    All descriptions are read first, because only behind them the data begin; then each tensor is checked against the file.
    """
    reader.need(count * _MIN_TENSOR, f"descriptions of {count} tensors")
    described: dict[str, tuple[tuple[int, ...], str, int]] = {}
    for index in range(count):
        name = reader.string(f"the name of tensor {index}", longest=_MAX_NAME)
        what = f"tensor {shown(name)}"
        if name in described:
            raise reader.error(f"{what} appears twice")
        dimensions = reader.u32(f"the number of dimensions of {what}")
        if dimensions > _MAX_DIMENSIONS:
            raise reader.error(f"{what}: got {dimensions} dimensions, expected at most {_MAX_DIMENSIONS}")
        sizes = [reader.u64(f"the shape of {what}") for _ in range(dimensions)]
        kind = reader.u32(f"the type of {what}")
        if kind in _UNSUPPORTED:
            raise reader.error(
                f"{what}: the encoding {_UNSUPPORTED[kind]} is not supported", "choose another file, such as Q4_K_M or Q8_0"
            )
        if kind not in ENCODINGS_OF_GGML:
            raise reader.error(f"{what}: got the unknown ggml type {kind}", "the file is damaged, or newer than this program")
        described[name] = tuple(reversed(sizes)), ENCODINGS_OF_GGML[kind], reader.u64(f"the offset of {what}")

    start = -(-reader.position // alignment) * alignment
    tensors: dict[str, StoredTensor] = {}
    extents: list[tuple[int, int, str]] = []
    begins: dict[str, int] = {}
    for name, (shape, encoding, offset) in described.items():
        where = f"{reader.path}: tensor {shown(name)}"
        nbytes = checked_nbytes(shape, encoding, where)
        if offset % alignment:
            raise CheckpointError(f"{where}: got the offset {offset}, expected a multiple of {alignment}; {DOWNLOAD_AGAIN}")
        begin, end = start + offset, start + offset + nbytes
        if end > reader.size:
            raise CheckpointError(f"{where} ends at byte {end}, but the file has {reader.size} bytes; {DOWNLOAD_AGAIN}")
        tensors[name] = StoredTensor(name, shape, encoding, reader.bytes[begin:end])
        begins[name] = begin
        if nbytes:
            extents.append((begin, end, name))
    # Gaps are harmless and allowed; overlaps are always an error.
    extents.sort()
    for (_, end, name), (begin, _, other) in pairwise(extents):
        if begin < end:
            raise reader.error(f"the tensors {shown(name)} and {shown(other)} overlap at byte {begin}")
    return tensors, begins


def read_one(path: Path) -> GGUFFile:
    """Open one GGUF file, which may be part of a split model."""
    reader = _Reader(path)
    version, tensor_count, metadata_count = _read_header(reader)
    metadata, alignment = _read_metadata(reader, metadata_count)
    tensors, begins = _read_tensors(reader, tensor_count, alignment)
    let_go(reader.buffer)  # the header has been copied to Python objects and need not be in memory twice
    return GGUFFile(path, (path,), version, alignment, metadata, tensors, reader.position, begins)


def _split_value(file: GGUFFile, key: str) -> int:
    """A count in the metadata of a split model; 0 if absent."""
    value = file.metadata.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise CheckpointError(f"{file.path}: metadata {key!r} is not a count; {DOWNLOAD_AGAIN}")
    return value


def _read_rest(first: GGUFFile, count: int) -> GGUFFile:
    """The whole split model of which `first` is the first file: NAME-00001-of-00003.gguf, NAME-00002-of-00003.gguf, ..."""
    named = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})\.gguf", first.path.name, re.DOTALL)
    if named is None or int(named[3]) != count:
        raise CheckpointError(
            f"{first.path}: the file says that it is one of {count}, expected a name that ends in -00001-of-{count:05d}.gguf; "
            "give the files of the set their original names"
        )
    opening = f"{named[1]}-00001-of-{named[3]}.gguf"
    if int(named[2]) != 1 or _split_value(first, "split.no") != 0:
        raise CheckpointError(f"{first.path}: the file is not the first of its set of {count}; open {opening} instead")
    tensors, files = dict(first.tensors), [first.path]
    for number in range(1, count):
        path = first.path.with_name(f"{named[1]}-{number + 1:05d}-of-{named[3]}.gguf")
        shard = read_one(path)
        got = _split_value(shard, "split.no"), _split_value(shard, "split.count")
        if got != (number, count):
            raise CheckpointError(
                f"{path}: the file says that it is number {got[0] + 1} of {got[1]}, expected {number + 1} of {count}; "
                + DOWNLOAD_AGAIN
            )
        if twice := tensors.keys() & shard.tensors.keys():
            raise CheckpointError(f"{path}: tensor {shown(min(twice))} is also in an earlier file; {DOWNLOAD_AGAIN}")
        tensors |= shard.tensors
        files.append(path)
    # Old tools do not write this number (0); then completeness is checked by the count of files only.
    total = _split_value(first, "split.tensors.count")
    if total and total != len(tensors):
        raise CheckpointError(f"{first.path}: got {len(tensors)} tensors in the set, expected {total}; {DOWNLOAD_AGAIN}")
    return replace(first, files=tuple(files), tensors=tensors)


def read_gguf(path: Path) -> GGUFFile:
    """Open a GGUF file (version 2 or 3, little-endian). Of a split model give the first file; the others are found.

    Metadata is that of the first file. Raises `CheckpointError`, before any tensor is read, for a damaged file and for
    encodings that cannot be decoded here.
    """
    path = Path(path)
    file = read_one(path)
    count = _split_value(file, "split.count")
    return _read_rest(file, count) if count > 1 else file
