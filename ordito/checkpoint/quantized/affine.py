"""(q - zero) * scale: affine dequantization, the formula of every method with evenly spaced levels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordito.checkpoint.unpacking import F32, U8, scale, shift, unpack

_CHUNK = 1 << 18  # elements at a time, for the reason given in quants.py
_ROWS = 32  # slices are multiples of this many rows, so that no packed word is split


def fields(packed: U8, bits: int) -> U8:
    """Unpack contiguous bit fields of 1 to 8 bits, lowest bits first: (n, k) bytes -> (n, k * 8 / bits) integers."""
    if 8 % bits == 0:
        return unpack(packed, bits, 1)
    stream = np.unpackbits(packed, axis=1, bitorder="little")
    whole = stream.shape[1] // bits * bits
    return np.packbits(stream[:, :whole].reshape(len(packed), -1, bits), axis=2, bitorder="little")[..., 0]


def rounded(values: F32, encoding: str) -> F32:
    """Values rounded to a shorter float type, ties to even, as a library that computes in it gets them."""
    if encoding == "f16":
        return values.astype(np.float16).astype(np.float32)
    if encoding == "bf16":
        bits = values.view(np.uint32)
        upper = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
        return np.where(np.isnan(values), values, upper.view(np.float32))
    return values


def row_slices(rows: int, columns: int) -> Iterator[slice]:
    """Slices of whole rows, small enough for a core's cache."""
    step = -(-_CHUNK // columns // _ROWS) * _ROWS
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def affine(
    shape: tuple[int, int],
    integers: Callable[[slice], NDArray[Any]],
    zeros: NDArray[Any] | None,
    scales: F32,
    group_of: NDArray[np.integer[Any]] | None,
    encoding: str,
) -> F32:
    """The matrix (q - zero) * scale of `shape`, rounded to `encoding`.

    `integers` gives q for a slice of rows; `zeros` and `scales` are (rows, groups). Column i belongs to the group
    `group_of[i]`; None: groups are consecutive columns of equal number.
    """
    out = np.empty(shape, np.float32)
    for rows in row_slices(*shape):
        part = out[rows]
        part[...] = integers(rows)
        if group_of is None:
            if zeros is not None:
                shift(part, zeros[rows].astype(np.float32))
            scale(part, scales[rows])
        else:
            if zeros is not None:
                part -= zeros[rows][:, group_of]
            part *= scales[rows][:, group_of]
        part[...] = rounded(part, encoding)
    return out


def runs(columns: int, size: int) -> NDArray[np.intp] | None:
    """`group_of` for groups of `size` consecutive columns, the last one possibly shorter; None if all are equal."""
    return None if columns % size == 0 else np.arange(columns) // size
