"""Writing GGUF, version 3, one tensor in memory at a time. gguf.py describes the layout."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ordito.checkpoint.encode import encode
from ordito.checkpoint.gguf import ENCODINGS_OF_GGML, NUMBERS
from ordito.checkpoint.stored import checked_nbytes
from ordito.errors import OrditoError
from ordito.files import write_atomically
from ordito.spec.node import Shape
from ordito.strings import Strings

ALIGNMENT = 32
_TYPES = {encoding: number for number, encoding in ENCODINGS_OF_GGML.items()}
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY, _U64, _I64, _F64 = 4, 5, 6, 7, 8, 9, 10, 11, 12
_OF_NUMPY = {np.dtype("?" if kind == _BOOL else code).name: kind for kind, code in NUMBERS.items()}
_MAX_F32 = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Planned:
    """A tensor that is to be written: its name, row-major shape and encoding, and the importances of its columns."""

    name: str
    shape: Shape
    encoding: str
    importance: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that it will take."""
        return checked_nbytes(self.shape, self.encoding, self.name)


def write_gguf(
    path: Path, metadata: Mapping[str, Any], planned: list[Planned], arrays: Iterable[tuple[str, np.ndarray]]
) -> None:
    """Write a file atomically. `arrays` gives the planned tensors in fp32, in the same order, each when it is needed.

    Raises `CheckpointError` if the file cannot be written, `OrditoError` for a value that GGUF cannot hold.
    """
    write_atomically(path, _parts(metadata, planned, arrays))


def _parts(
    metadata: Mapping[str, Any], planned: list[Planned], arrays: Iterable[tuple[str, np.ndarray]]
) -> Iterator[bytes | memoryview]:
    head = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(planned), len(metadata)))
    for key, value in metadata.items():
        head += _string(key) + _value(key, value)
    offset = 0
    for tensor in planned:
        sizes = struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
        head += _string(tensor.name) + struct.pack("<I", len(tensor.shape)) + sizes
        head += struct.pack("<IQ", _TYPES[tensor.encoding], offset)
        offset += tensor.nbytes + _padding(tensor.nbytes)
    yield bytes(head) + b"\0" * _padding(len(head))
    for tensor, (name, array) in zip(planned, arrays, strict=True):
        assert (tensor.name, tensor.shape) == (name, array.shape), f"{name} {array.shape} comes where {tensor} was planned"
        data = encode(name, array, tensor.encoding, tensor.importance)
        assert data.nbytes == tensor.nbytes, f"{name} takes {data.nbytes} bytes, {tensor.nbytes} were planned"
        yield data.reshape(-1).data
        yield b"\0" * _padding(tensor.nbytes)


def _padding(nbytes: int) -> int:
    return -nbytes % ALIGNMENT


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    return struct.pack("<Q", len(data)) + data


def _kind(key: str, value: Any) -> int:
    match value:
        case bool():
            return _BOOL
        case int():
            kinds = [(_U32, 0, 2**32), (_I32, -(2**31), 0), (_U64, 0, 2**64), (_I64, -(2**63), 0)]
            for kind, low, high in kinds:
                if low <= value < high:
                    return kind
        case float():
            return _F64 if _MAX_F32 < abs(value) < math.inf else _F32
        case str():
            return _STRING
    raise OrditoError(
        f"GGUF metadata {key!r}: got {value!r:.80}, expected a number, a truth value, a string, or a list of these"
    )


def _value(key: str, value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        return (
            struct.pack("<IIQ", _ARRAY, _OF_NUMPY[value.dtype.name], len(value))
            + value.astype(value.dtype.newbyteorder("<")).tobytes()
        )
    if isinstance(value, Strings):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_string, value))
    if not isinstance(value, (list, tuple)):
        kind = _kind(key, value)
        return struct.pack("<I", kind) + _plain(kind, value)
    kinds = {_kind(key, item) for item in value}
    if set() < kinds <= {_U32, _I32} and all(-(2**31) <= item < 2**31 for item in value):
        kinds = {_I32}  # the type that readers expect, for example of `tokenizer.ggml.token_type`
    if len(kinds) > 1:
        raise OrditoError(f"GGUF metadata {key!r}: the list holds values of several types, expected one")
    kind = next(iter(kinds), _STRING)  # an empty list is one of strings: arrays of numbers are numpy's
    return struct.pack("<IIQ", _ARRAY, kind, len(value)) + b"".join(_plain(kind, item) for item in value)


def _plain(kind: int, value: Any) -> bytes:
    return _string(value) if kind == _STRING else struct.pack("<" + NUMBERS[kind], value)
