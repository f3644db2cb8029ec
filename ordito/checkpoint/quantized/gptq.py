"""GPTQ (https://arxiv.org/abs/2210.17323) as AutoGPTQ and GPTQModel store it.

    qweight  int32 (in * bits / 32, out)      integers of one output, packed along the inputs
    qzeros   int32 (groups, out * bits / 32)  the group's zero points, packed along the outputs
    scales   float (groups, out)
    g_idx    int32 (in,)                      the group of every input: not consecutive if columns were sorted (`desc_act`)

    weight[o, i] = (q[i, o] - zero[g_idx[i], o]) * scale[g_idx[i], o]

The format "gptq" stores zero - 1, modulo 2^bits; "gptq_v2" stores zero. Symmetric models store their zeros as well.
The layout is that of GPTQModel's `nn_modules/qlinear`, the wrap-around that of AutoGPTQ's `qlinear_cuda.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import numpy as np

from ordito.checkpoint.quantized.affine import affine, fields, runs
from ordito.checkpoint.quantized.parts import FLOATS, Parts, QuantizedTensor
from ordito.checkpoint.stored import StoredTensor
from ordito.checkpoint.unpacking import F32
from ordito.errors import CheckpointError
from ordito.families.reader import Reader

_BITS = (2, 3, 4, 8)


def gptq(parts: Parts, config: Reader) -> Iterator[QuantizedTensor]:
    """Weights of `quant_method: gptq`."""
    # Some modules may have other settings (`dynamic`), so the bits are taken from the shapes.
    usual = config.size("bits")
    group_size = None if config.get("group_size", -1) == -1 else config.size("group_size")
    first = config.choice("checkpoint_format", {"gptq": True, "gptq_v2": False}, "gptq")
    for base in parts.bases(".qweight"):
        qweight = parts.take(f"{base}.qweight", ("i32",), (2,))
        qzeros = parts.take(f"{base}.qzeros", ("i32",), (2,))
        scales = parts.take(f"{base}.scales", FLOATS, (2,))
        g_idx = parts.take_optional(f"{base}.g_idx", ("i32", "i64"), (1,))
        groups, outputs = scales.shape
        parts.check(qweight, qweight.shape[0], outputs)
        bits = next((b for b in (usual, *_BITS) if b in _BITS and ceil(outputs * b / 32) == qzeros.shape[1]), 0)
        if not bits:
            raise parts.error(qzeros, f"integers of {', '.join(map(str, _BITS))} bits for {outputs} outputs")
        parts.check(qzeros, groups, qzeros.shape[1])
        inputs = qweight.shape[0] * 32 // bits if g_idx is None else g_idx.shape[0]
        if qweight.shape[0] != ceil(inputs * bits / 32):
            raise parts.error(qweight, f"{ceil(inputs * bits / 32)} words of {bits}-bit integers for {inputs} inputs")
        if g_idx is None and groups != ceil(inputs / (group_size or inputs)):
            raise parts.error(scales, f"groups of {group_size or inputs} for {inputs} inputs")
        yield _weight(base, (outputs, inputs), bits, group_size or inputs, first, qweight, qzeros, scales, g_idx)


def _weight(
    base: str,
    shape: tuple[int, int],
    bits: int,
    group_size: int,
    first: bool,
    qweight: StoredTensor,
    qzeros: StoredTensor,
    scales: StoredTensor,
    g_idx: StoredTensor | None,
) -> QuantizedTensor:
    outputs, inputs = shape
    groups = scales.shape[0]

    def decode() -> F32:
        group_of = runs(inputs, group_size) if g_idx is None else g_idx.to_numpy()
        if group_of is not None and (group_of.min() < 0 or group_of.max() >= groups):
            raise CheckpointError(
                f"tensor {base}.g_idx: got groups of {group_of.min()} to {group_of.max()}, expected 0 to {groups - 1}"
            )
        words = qweight.to_numpy().T
        zeros = fields(qzeros.to_numpy().view(np.uint8), bits)[:, :outputs].T
        if first:
            zeros = (zeros + np.uint8(1)) & np.uint8((1 << bits) - 1)
        return affine(
            shape,
            lambda rows: fields(np.ascontiguousarray(words[rows]).view(np.uint8), bits)[:, :inputs],
            zeros,
            np.ascontiguousarray(scales.to_float32().T),
            group_of,
            scales.encoding,
        )

    nbytes = sum(part.nbytes for part in (qweight, qzeros, scales, g_idx) if part is not None)
    return QuantizedTensor(f"{base}.weight", shape, f"gptq_{bits}bit", nbytes, decode)
