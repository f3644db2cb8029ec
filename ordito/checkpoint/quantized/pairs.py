"""Decoding of two 4-bit codes per byte by a table."""

from __future__ import annotations

import numpy as np

from ordito.checkpoint.unpacking import F32, U8


def pairs(data: U8, values: F32, low_first: bool) -> F32:
    """(...,) bytes -> (..., 2) values; code c stands for `values[c]`."""
    byte = np.arange(256)
    low, high = values[byte & 15], values[byte >> 4]
    table = np.stack((low, high) if low_first else (high, low), axis=1)
    return np.take(table, data, axis=0)
