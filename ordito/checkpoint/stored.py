"""One tensor as a file stores it: a name, a shape, an encoding, and a view of the file's bytes.

Nothing is read or copied until `to_float32` or `to_numpy` is called: the bytes are pages of the file, mapped into memory.
A file must not be shortened while it is mapped: touching pages that no longer exist kills the process (SIGBUS), and no
check made at opening can prevent that. Files that ordito writes are replaced, never rewritten in place, which is safe.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ordito.checkpoint.quants import FORMATS, dequantize
from ordito.errors import CheckpointError

# What to do about a file whose contents contradict themselves; the end of most messages.
DOWNLOAD_AGAIN = "the file is damaged or incomplete: download it again"

# Sizes are refused from here on, so that no product of them overflows the 64-bit integers of numpy and of other readers.
_MAX_ELEMENTS = 1 << 59


@dataclass(frozen=True, slots=True)
class Encoding:
    """How many bytes the elements of a tensor take: `block_bytes` for every `block_size` neighbours in a row."""

    block_size: int
    block_bytes: int
    # The numpy type whose array the bytes are, little-endian; None where numpy has no such type.
    dtype: np.dtype[Any] | None = None


_NUMPY_TYPES = {
    "f32": "<f4",
    "f16": "<f2",
    "f64": "<f8",
    "i8": "i1",
    "i16": "<i2",
    "i32": "<i4",
    "i64": "<i8",
    "u8": "u1",
    "u16": "<u2",
    "u32": "<u4",
    "u64": "<u8",
    "bool": "?",
}

ENCODINGS: dict[str, Encoding] = {name: Encoding(form.block_size, form.layout.itemsize) for name, form in FORMATS.items()} | {
    name: Encoding(1, np.dtype(code).itemsize, np.dtype(code)) for name, code in _NUMPY_TYPES.items()
}


def shown(name: str) -> str:
    """A name from a file as messages show it: quoted, control characters escaped, not longer than a line."""
    return ascii(name if len(name) <= 100 else name[:97] + "...")


def checked_nbytes(shape: tuple[int, ...], encoding: str, where: str) -> int:
    """The bytes of a tensor. Raises `CheckpointError`, its message beginning with `where`, for an impossible shape.

    >>> checked_nbytes((2, 64), "q8_0", "x.gguf: tensor 'w'")
    136
    """
    form = ENCODINGS[encoding]
    if any(size < 0 for size in shape) or prod(max(size, 1) for size in shape) >= _MAX_ELEMENTS:
        raise CheckpointError(
            f"{where}: got the shape {list(shape)}, expected sizes of at least 0 whose product is below 2^59; " + DOWNLOAD_AGAIN
        )
    row = shape[-1] if shape else 1
    if row % form.block_size:
        raise CheckpointError(
            f"{where}: got rows of {row} elements encoded as {encoding}, expected a multiple of {form.block_size}; "
            + DOWNLOAD_AGAIN
        )
    return prod(shape) // form.block_size * form.block_bytes


class Stored(Protocol):
    """A tensor in a file as readers of weights see it, whether it is stored as one tensor or as several (quantized)."""

    @property
    def name(self) -> str:
        """Its name in the file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Row-major: PyTorch's order."""

    @property
    def encoding(self) -> str:
        """How its numbers are stored."""

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""

    def to_float32(self) -> NDArray[np.float32]:
        """The values, in `shape`."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A tensor in a file. `shape` is row-major (PyTorch's order); `data` is a 1-D view of its bytes, not a copy."""

    name: str
    shape: tuple[int, ...]
    encoding: str
    data: NDArray[np.uint8] = field(repr=False)

    def __post_init__(self) -> None:
        where = f"tensor {shown(self.name)}"
        if self.encoding not in ENCODINGS:
            raise CheckpointError(f"{where}: got the encoding {self.encoding!r}, expected one of {', '.join(ENCODINGS)}")
        expected = checked_nbytes(self.shape, self.encoding, where)
        if self.data.dtype != np.uint8 or self.data.ndim != 1 or self.data.nbytes != expected:
            raise CheckpointError(
                f"{where}: got {self.data.nbytes} bytes as {self.data.dtype} {list(self.data.shape)}, expected a 1-D "
                f"uint8 array of {expected} bytes for {list(self.shape)} in {self.encoding}"
            )

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.data.nbytes

    def to_float32(self) -> NDArray[np.float32]:
        """The values as float32, in `shape`.

        For "f32" whose bytes are aligned this is a read-only view of the file, without a copy; for everything else it is
        a fresh, writable array. Raises `CheckpointError` for integers, which are no weights.
        """
        if self.encoding == "f32":
            values: NDArray[np.float32] = self.data.view("<f4").astype(np.float32, copy=False)
            # Alignment of 4 is not guaranteed by either format, and a misaligned array is slow or refused elsewhere.
            return np.require(values, requirements="A").reshape(self.shape)
        if self.encoding not in FORMATS:
            raise CheckpointError(
                f"tensor {shown(self.name)}: got integers ({self.encoding}), expected floats; read it with to_numpy"
            )
        return dequantize(self.encoding, self.data).reshape(self.shape)

    def to_numpy(self) -> NDArray[Any]:
        """The values in their own type, in `shape`: a read-only view of the file (of booleans: a fresh array).

        Meant for integers and booleans; f16, f32 and f64 work too. Raises `CheckpointError` for encodings that numpy has no
        type for.
        """
        dtype = ENCODINGS[self.encoding].dtype
        if dtype is None:
            raise CheckpointError(f"tensor {shown(self.name)}: numpy has no type for {self.encoding}; read it with to_float32")
        if self.encoding == "bool":
            # A byte other than 0 and 1 inside a numpy bool is undefined behaviour, so they are compared, not viewed.
            return np.not_equal(self.data, 0).reshape(self.shape)
        return self.data.view(dtype).reshape(self.shape)


def mapping(array: NDArray[Any]) -> mmap.mmap | None:
    """The memory-mapped file of which an array is a view, or None."""
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", getattr(base, "obj", None))
    return base


def let_go(mapped: mmap.mmap) -> None:
    """Release the resident pages of a mapped file; they are read from disk again when needed."""
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def map_file(path: Path) -> mmap.mmap:
    """Map a whole file into memory, read-only. Raises `CheckpointError` for anything but a regular file.

    O_NONBLOCK, because opening a FIFO would otherwise wait for a writer for ever; the check follows the opening, so that
    the file cannot be exchanged in between.
    """
    try:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = "there is no such file" if getattr(error, "errno", 0) == errno.ENOENT else f"cannot be opened ({error})"
        raise CheckpointError(f"{path}: {reason}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise CheckpointError(f"{path}: got {kind}, expected a weights file")
        if status.st_size == 0:
            raise CheckpointError(f"{path}: the file is empty; {DOWNLOAD_AGAIN}")
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be mapped into memory ({error.strerror})") from None
    finally:
        os.close(descriptor)
