"""8-bit weights with scales: one per tensor, per row, per group of a row, or per block."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordito.checkpoint.quantized.affine import affine, runs
from ordito.checkpoint.quantized.parts import Parts, QuantizedTensor
from ordito.checkpoint.quants import dequantize
from ordito.checkpoint.stored import StoredTensor
from ordito.checkpoint.unpacking import F32


def scaled(
    parts: Parts,
    weight: StoredTensor,
    scale: StoredTensor,
    block: tuple[int, int] | None = None,
    zero: StoredTensor | None = None,
) -> QuantizedTensor:
    """(weight - zero) * scale. `weight` is a matrix, or a stack of matrices; `zero` has the shape of `scale`.

    `block` is the (rows, columns) of a scale's block, if it is neither a row nor the tensor; the last blocks may be partial.
    Without it, the scales of a row are those of equal groups of its columns.
    """
    *several, rows, columns = weight.shape
    count = prod(several)
    if prod(scale.shape) == 1:
        high, wide = rows, columns
    elif scale.shape in ((*several, rows), (*several, rows, 1)):
        high, wide = 1, columns
    else:
        high, wide = block or (1, max(columns // scale.shape[-1], 1))
        if scale.shape != (*several, -(-rows // high), -(-columns // wide)):
            raise parts.error(scale, f"one scale for {list(weight.shape)}, one a row, or one for {high} rows x {wide} columns")
    if zero is not None:
        parts.check(zero, *scale.shape)
    grid = (-(-rows // high), -(-columns // wide))

    def grids(values: NDArray[Any]) -> NDArray[Any]:
        return np.broadcast_to(values.reshape(-1, *grid), (count, *grid))

    def decode() -> F32:
        scales = grids(scale.to_float32())
        zeros = None if zero is None else grids(zero.to_numpy())
        data = weight.data.reshape(count, rows, columns)

        def matrix(number: int) -> F32:
            return affine(
                (rows, columns),
                lambda part: _values(data[number, part], weight.encoding),
                None if zeros is None else np.repeat(zeros[number], high, axis=0)[:rows],
                np.repeat(scales[number], high, axis=0)[:rows],
                runs(columns, wide),
                scale.encoding,
            )

        return matrix(0) if not several else np.stack([matrix(number) for number in range(count)]).reshape(weight.shape)

    nbytes = weight.nbytes + scale.nbytes + (zero.nbytes if zero is not None else 0)
    return QuantizedTensor(weight.name, weight.shape, f"{weight.encoding}_scaled", nbytes, decode)


def _values(data: NDArray[np.uint8], encoding: str) -> NDArray[Any]:
    """8-bit integers or floats from their bytes."""
    return data.view(np.int8) if encoding == "i8" else dequantize(encoding, data.reshape(-1)).reshape(data.shape)
