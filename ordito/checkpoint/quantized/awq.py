"""AWQ (https://arxiv.org/abs/2306.00978) as AutoAWQ stores it, 4 bits only.

    "gemm"  qweight int32 (in, out / 8), qzeros int32 (groups, out / 8), scales (groups, out)
    "gemv"  qweight int32 (out, in / 8), qzeros int32 (out, width), scales (out, width * 8): groups along the rows, padded

    weight[o, i] = (q[o, i] - zero[o, g]) * scale[o, g],  g = i // group_size

In "gemm" the nibbles of a word, lowest first, are its outputs 0, 2, 4, 6, 1, 3, 5, 7; in "gemv" they are in order. The
layouts are those of AutoAWQ's `modules/linear/gemm.py`, `gemv.py`, and `utils/packing_utils.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ordito.checkpoint.quantized.affine import affine, fields
from ordito.checkpoint.quantized.parts import FLOATS, Parts, QuantizedTensor
from ordito.checkpoint.stored import StoredTensor
from ordito.checkpoint.unpacking import F32, U8
from ordito.errors import CheckpointError
from ordito.families.reader import Reader

_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]  # the nibble that holds output j of eight


def awq(parts: Parts, config: Reader) -> Iterator[QuantizedTensor]:
    """Weights of `quant_method: awq`."""
    config.must_be("bits", 4)
    group_size = None if config.get("group_size", 128) == -1 else config.size("group_size", 128)
    layout = str(config.text("version", config.text("format", "gemm"))).lower()
    if layout not in _LAYOUTS:
        raise CheckpointError(f"{config.where}: the layout is {layout!r}, expected one of {', '.join(_LAYOUTS)}")
    for base in parts.bases(".qweight"):
        qweight = parts.take(f"{base}.qweight", ("i32",), (2,))
        qzeros = parts.take(f"{base}.qzeros", ("i32",), (2,))
        scales = parts.take(f"{base}.scales", FLOATS, (2,))
        shape, decode = _LAYOUTS[layout](parts, qweight, qzeros, scales, group_size)
        nbytes = qweight.nbytes + qzeros.nbytes + scales.nbytes
        yield QuantizedTensor(f"{base}.weight", shape, "awq_4bit", nbytes, decode)


Layout = tuple[tuple[int, int], Callable[[], F32]]


def _groups(parts: Parts, qweight: StoredTensor, inputs: int, size: int | None) -> int:
    if inputs % (size or inputs):
        raise parts.error(qweight, f"a multiple of {size} inputs, the size of a group")
    return inputs // (size or inputs)


def _gemm(parts: Parts, qweight: StoredTensor, qzeros: StoredTensor, scales: StoredTensor, size: int | None) -> Layout:
    inputs, words = qweight.shape
    groups = _groups(parts, qweight, inputs, size)
    parts.check(qzeros, groups, words)
    parts.check(scales, groups, words * 8)

    def nibbles(packed: U8) -> U8:
        """(n, k) words as bytes -> (8 k, n), one output a row."""
        in_order = fields(packed, 4).reshape(len(packed), -1, 8)[..., _PLACES]
        return in_order.reshape(len(packed), -1).T

    def decode() -> F32:
        packed = qweight.to_numpy()
        return affine(
            (words * 8, inputs),
            lambda rows: nibbles(np.ascontiguousarray(packed[:, rows.start // 8 : rows.stop // 8]).view(np.uint8)),
            nibbles(qzeros.to_numpy().view(np.uint8)),
            np.ascontiguousarray(scales.to_float32().T),
            None,
            scales.encoding,
        )

    return (words * 8, inputs), decode


def _gemv(parts: Parts, qweight: StoredTensor, qzeros: StoredTensor, scales: StoredTensor, size: int | None) -> Layout:
    outputs, words = qweight.shape
    groups = _groups(parts, qweight, words * 8, size)
    width = qzeros.shape[1]
    parts.check(qzeros, outputs, max(width, -(-groups // 8)))
    parts.check(scales, outputs, width * 8)

    def decode() -> F32:
        packed = qweight.to_numpy()
        return affine(
            (outputs, words * 8),
            lambda rows: fields(packed[rows].view(np.uint8), 4),
            fields(qzeros.to_numpy().view(np.uint8), 4)[:, :groups],
            np.ascontiguousarray(scales.to_float32()[:, :groups]),
            None,
            scales.encoding,
        )

    return (outputs, words * 8), decode


_LAYOUTS = {"gemm": _gemm, "gemv": _gemv}
