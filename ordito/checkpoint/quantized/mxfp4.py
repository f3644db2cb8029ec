"""MXFP4 (OCP Microscaling Formats 1.0) as gpt-oss stores its experts: `quant_method: mxfp4`.

    X_blocks  uint8 (experts, rows, columns / 32, 16)   E2M1 codes, two per byte, the first in the low nibble
    X_scales  uint8 (experts, rows, columns / 32)       exponents of 2, plus 127

The weight is X, (experts, columns, rows): transposed, as transformers' `convert_moe_packed_tensors` makes it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ordito.checkpoint.quantized.pairs import pairs
from ordito.checkpoint.quantized.parts import Parts, QuantizedTensor
from ordito.checkpoint.stored import StoredTensor
from ordito.checkpoint.unpacking import F32
from ordito.families.reader import Reader

# Twice the values of E2M1: scales are halved in return, so that the largest, 2^128, is a finite float32.
_E2M1_DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, -0.0, -1, -2, -3, -4, -6, -8, -12], np.float32)


def mxfp4(parts: Parts, config: Reader) -> Iterator[QuantizedTensor]:
    """Weights of `quant_method: mxfp4`."""
    for base in parts.bases("_blocks"):
        blocks = parts.take(f"{base}_blocks", ("u8",), (4,))
        scales = parts.take(f"{base}_scales", ("u8",), (3,))
        parts.check(blocks, *blocks.shape[:3], 16)
        parts.check(scales, *blocks.shape[:3])
        yield _weight(base, blocks, scales)


def _weight(base: str, blocks: StoredTensor, scales: StoredTensor) -> QuantizedTensor:
    experts, rows, groups, _ = blocks.shape
    shape = (experts, groups * 32, rows)

    def decode() -> F32:
        out = np.empty(shape, np.float32)
        for expert, codes, exponents in zip(out, blocks.to_numpy(), scales.to_numpy(), strict=True):
            values = pairs(codes, _E2M1_DOUBLED, low_first=True).reshape(rows, groups, 32)
            values *= np.ldexp(np.float32(1), exponents.astype(np.int32) - 128)[..., None]
            expert[...] = values.reshape(rows, -1).T
        return out

    return QuantizedTensor(base, shape, "mxfp4", blocks.nbytes + scales.nbytes, decode)
