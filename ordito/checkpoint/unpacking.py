"""The common steps of block decoders: unpacking bit fields, and applying scales to groups of elements."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
Blocks = NDArray[Any]  # a 1-D structured array in one of the layouts in quants.py


def unpack(packed: U8, bits: int, run: int) -> U8:
    """Unpack the bit fields of bytes: (n, k) bytes -> (n, k * 8 / bits) small integers.

    ggml divides the packed bytes into runs of `run` bytes. The lowest `bits` bits of a run's bytes are its first elements, in
    the order of the bytes; the next bits of the same bytes are the elements after those, and so on:

    >>> unpack(np.array([[0x51, 0x62, 0x73, 0x84]], np.uint8), bits=4, run=2).tolist()
    [[1, 2, 5, 6, 3, 4, 7, 8]]
    """
    count, width = packed.shape
    fields = 8 // bits
    source = packed.reshape(count, width // run, run)
    spread = np.empty((count, width // run, fields, run), np.uint8)
    for field in range(fields):
        np.right_shift(source, field * bits, out=spread[:, :, field, :])
    spread &= np.uint8((1 << bits) - 1)
    return spread.reshape(count, width * fields)


def single(halves: NDArray[np.float16]) -> F32:
    """The scales of blocks, one a row: (n,) float16 -> (n, 1) float32."""
    return halves.astype(np.float32).reshape(-1, 1)


def scale(out: F32, scale: F32) -> None:
    """out = out * scale, in place; `scale` is (n, groups), of groups of equal size in each block."""
    grouped = out.reshape(*scale.shape, -1)
    grouped *= scale[..., None]


def shift(out: F32, minimum: F32) -> None:
    """out = out - minimum, in place, by groups as in `scale`."""
    grouped = out.reshape(*minimum.shape, -1)
    grouped -= minimum[..., None]


def lookup(table: tuple[int, ...], q: U8) -> NDArray[np.int8]:
    """table[q] for 4-bit q. `bytes.translate` does it several times faster than numpy's indexing with small integers."""
    codes = np.array(table * 16, np.int8).tobytes()
    return np.frombuffer(q.tobytes().translate(codes), np.int8).reshape(q.shape)
