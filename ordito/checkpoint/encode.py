"""Encoding (quantization) of fp32 tensors to the bytes of files: the inverse of quants.py."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from ordito import _core
from ordito.checkpoint.quants import CHUNK
from ordito.checkpoint.stored import ENCODINGS, StoredTensor, shown
from ordito.errors import OrditoError
from ordito.threads import usable_threads

PLAIN = ("f32", "f16", "bf16")
"""Encodings of single numbers; all others are of blocks."""

ALWAYS_FIT = 65504.0
"""The largest f16. Numbers up to it fit into every encoding: no block's scale exceeds its largest number."""


def encode(
    name: str, array: NDArray[np.float32], encoding: str, importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """A tensor (..., columns) in an encoding: its bytes, (..., bytes of a row).

    Block scales and codes minimise the squared error. `importance`, (columns,) or, for E stacked experts, (E, columns),
    weighs it: the mean square of each column's input (as `ordito imatrix` collects it). Raises `OrditoError` for numbers that
    the encoding cannot hold, because they are too large or, in blocks, not finite, and for importances of another width.
    """
    largest = max(array.max(initial=0), -array.min(initial=0))  # NaN, if any is
    if encoding in PLAIN:
        data = _plain(array, encoding)
    elif np.isfinite(largest):
        data = _blocks(name, array, encoding, importance)
    else:
        raise OrditoError(f"tensor {shown(name)} holds numbers that are not finite: they cannot be rounded to {encoding}")
    if not largest <= ALWAYS_FIT:
        _refuse_overflow(name, array, encoding, data)
    return data


def _blocks(name: str, array: NDArray[np.float32], encoding: str, importance: NDArray[np.float32] | None) -> NDArray[np.uint8]:
    columns = array.shape[-1]
    weights = None if importance is None else _weights(name, array, importance)
    matrices = np.ascontiguousarray(array, np.float32).reshape(-1, columns)
    if weights is None or weights.ndim == 1:
        data = _kernels().encode(encoding, matrices, weights, usable_threads())
    else:
        experts = matrices.reshape(len(weights), -1, columns)
        data = np.concatenate(
            [_kernels().encode(encoding, one, weight, usable_threads()) for one, weight in zip(experts, weights, strict=True)]
        )
    form = ENCODINGS[encoding]
    return data.reshape(*array.shape[:-1], columns // form.block_size * form.block_bytes)


def _refuse_overflow(name: str, array: NDArray[np.float32], encoding: str, data: NDArray[np.uint8]) -> None:
    """Raise `OrditoError` if a block's scale has overflowed: its largest number is then decoded as about 0, or as infinity."""
    form = ENCODINGS[encoding]
    blocks = array.reshape(-1, form.block_size)
    suspects = (np.abs(blocks) > ALWAYS_FIT).any(axis=1)
    blocks = blocks[suspects]
    found = StoredTensor(name, blocks.shape, encoding, data.reshape(-1, form.block_bytes)[suspects].reshape(-1)).to_float32()
    largest = np.arange(len(blocks)), np.abs(blocks).argmax(axis=1)
    x, y = blocks[largest], found[largest]
    lost = x[np.isfinite(x) & ~(np.isfinite(y) & (np.abs(y) >= np.abs(x) / 1000))]
    if lost.size:
        wider = "f32" if encoding == "bf16" else "bf16 or f32"
        raise OrditoError(f"tensor {shown(name)} holds {lost[0]:g}, which is too large for {encoding}: choose {wider}")


def _weights(name: str, array: NDArray[np.float32], importance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Importances (columns,), or (E, columns) of experts, divided by their mean. Raises `OrditoError` if they do not fit."""
    shape = importance.shape
    if shape[-1] != array.shape[-1] or shape[:-1] not in ((), (1,), array.shape[:1] if array.ndim > 2 else ()):
        raise OrditoError(
            f"tensor {shown(name)}: the importance matrix has the shape {list(shape)}, expected {array.shape[-1]} columns, as "
            f"in {list(array.shape)}: is it of another model?"
        )
    if not np.isfinite(importance).all() or (importance < 0).any():
        raise OrditoError(f"tensor {shown(name)}: its importances are not all finite and positive")
    weights = (importance[0] if shape[:-1] == (1,) else importance).astype(np.float64)
    mean = weights.mean(axis=-1, keepdims=True)
    # A column whose inputs were all 0 keeps a small weight, so that it is still rounded sensibly.
    return np.where(mean > 0, np.maximum(weights / np.where(mean > 0, mean, 1), 1e-4), 1).astype(np.float32)


def _plain(array: NDArray[np.float32], encoding: str) -> NDArray[np.uint8]:
    if encoding == "bf16":
        numbers = _bf16(np.ascontiguousarray(array, np.float32).reshape(-1))
    else:
        with np.errstate(over="ignore"):
            numbers = np.ascontiguousarray(array, "<f4" if encoding == "f32" else "<f2")
    return numbers.reshape(*array.shape).view(np.uint8) if array.ndim else numbers.reshape(1).view(np.uint8)


def _bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of fp32 numbers (N,), rounded to nearest even; NaN stays NaN. Besides them, memory for one chunk."""
    numbers = np.empty(values.shape, "<u2")
    for start in range(0, len(values), CHUNK):
        bits = values[start : start + CHUNK].view(np.uint32)
        upper = bits >> 16
        rounded = (bits + 0x7FFF + (upper & 1)) >> 16
        numbers[start : start + CHUNK] = np.where(np.isnan(bits.view(np.float32)), upper | 64, rounded)
    return numbers


@cache
def _kernels() -> _core.Kernels:
    return _core.Kernels(None)
