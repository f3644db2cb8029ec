"""bitsandbytes: NF4 and FP4 (QLoRA, https://arxiv.org/abs/2305.14314), and int8 (https://arxiv.org/abs/2208.07339).

4 bits, `X` being the weight's plain name:
    X                    codes of the flattened weight, two per byte, the first in the high nibble
    X.quant_map          f32 (16,)       code -> value
    X.absmax             f32 (blocks,)   scale of each `blocksize` elements; or uint8 codes, with these three:
    X.nested_quant_map   f32 (256,)      code -> value
    X.nested_absmax      f32             scale of each `nested_blocksize` scales
    X.quant_state.bitsandbytes__nf4 (or fp4)   uint8: JSON with shape, dtype, blocksize, nested_blocksize, nested_offset

    weight[i] = quant_map[code[i]] * absmax[i // blocksize]
    absmax[j] = nested_quant_map[code[j]] * nested_absmax[j // nested_blocksize] + nested_offset

8 bits:  X.weight int8 (rows, columns), X.SCB f32 (rows,): the largest magnitude of a row;  weight = q * SCB / 127

as in the library's `functional.py` (`QuantState`) and `backends/default/ops.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import isfinite, prod

import numpy as np

from ordito.checkpoint.quantized.affine import affine, rounded
from ordito.checkpoint.quantized.pairs import pairs
from ordito.checkpoint.quantized.parts import FLOATS, Parts, QuantizedTensor
from ordito.checkpoint.stored import DOWNLOAD_AGAIN, shown
from ordito.checkpoint.unpacking import F32
from ordito.errors import CheckpointError
from ordito.families.reader import Reader

_SUFFIX = ".quant_state.bitsandbytes__"
_MAX_STATE = 1 << 16  # bytes; states have a few hundred
_DTYPES = {"float16": "f16", "bfloat16": "bf16", "float32": "f32"}
_ANY = ("u8", "i8", "f16", "bf16", "f32")  # the type in which `bnb_4bit_quant_storage` stores the bytes


def bitsandbytes(parts: Parts, config: Reader) -> Iterator[QuantizedTensor]:
    """Weights of `quant_method: bitsandbytes`; whether they have 4 or 8 bits follows from the names of their tensors."""
    for kind in ("nf4", "fp4"):
        for base in parts.bases(_SUFFIX + kind):
            yield _four_bits(parts, base, kind)
    for base in parts.bases(".SCB"):
        yield _eight_bits(parts, base)


def _state(parts: Parts, name: str) -> Reader:
    """The JSON object in a tensor of bytes."""
    tensor = parts.take(name, ("u8",), (1,))
    where = f"{parts.where}: tensor {shown(name)}"
    try:
        if tensor.nbytes > _MAX_STATE:
            raise ValueError(f"it has {tensor.nbytes} bytes")
        values = json.loads(tensor.data.tobytes())
        if not isinstance(values, dict):
            raise ValueError(f"it is a {type(values).__name__}")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{where}: expected a JSON object of at most {_MAX_STATE} bytes ({error}); {DOWNLOAD_AGAIN}"
        ) from None
    return Reader(values, where)


def _four_bits(parts: Parts, base: str, kind: str) -> QuantizedTensor:
    state = _state(parts, base + _SUFFIX + kind)
    shape = tuple(state.items("shape"))
    if not shape or not all(type(size) is int and 0 < size < 1 << 31 for size in shape):
        raise state.fail("shape", list(shape), "a list of sizes of at least 1")
    count = prod(shape)
    encoding = state.choice("dtype", _DTYPES)
    block = state.size("blocksize")
    weight = parts.take(base, _ANY, (1, 2))
    absmax = parts.take(f"{base}.absmax", ("u8", *FLOATS), (1,))
    levels = parts.take(f"{base}.quant_map", ("f32",), (1,))
    if weight.nbytes != -(-count // 2):
        raise parts.error(weight, f"{-(-count // 2)} bytes for {count} elements of 4 bits")
    parts.check(absmax, -(-count // block))
    parts.check(levels, 16)
    used = [weight, absmax, levels]
    if absmax.encoding == "u8":
        nested = parts.take(f"{base}.nested_absmax", FLOATS, (1,))
        nested_levels = parts.take(f"{base}.nested_quant_map", ("f32",), (1,))
        nested_block = state.size("nested_blocksize")
        offset = state.get("nested_offset")
        if type(offset) not in (int, float) or not isfinite(offset):
            raise state.fail("nested_offset", offset, "a finite number")
        parts.check(nested, -(-absmax.shape[0] // nested_block))
        parts.check(nested_levels, 256)
        used += [nested, nested_levels]

    def scales() -> F32:
        if absmax.encoding != "u8":
            return absmax.to_float32()
        values = _times_blocks(nested_levels.to_float32()[absmax.data], nested.to_float32(), nested_block)
        values += np.float32(offset)
        return values

    def decode() -> F32:
        values = pairs(weight.data, levels.to_float32(), low_first=False).reshape(-1)[:count]
        return rounded(_times_blocks(values, scales(), block), encoding).reshape(shape)

    return QuantizedTensor(base, shape, f"bnb_{kind}", sum(part.nbytes for part in used), decode)


def _times_blocks(values: F32, scales: F32, size: int) -> F32:
    """values[i] *= scales[i // size], in place; the last block may be shorter."""
    whole = len(values) // size
    blocks = values[: whole * size].reshape(-1, size)
    blocks *= scales[:whole, None]
    values[whole * size :] *= scales[whole:]
    return values


def _eight_bits(parts: Parts, base: str) -> QuantizedTensor:
    weight = parts.take(f"{base}.weight", ("i8",), (2,))
    scale = parts.take(f"{base}.SCB", FLOATS, (1,))
    order = parts.take_optional(f"{base}.weight_format", ("u8",), (0, 1))
    parts.check(scale, weight.shape[0])
    if order is not None and order.data.any():
        raise CheckpointError(
            f"{parts.where}: tensor {shown(weight.name)} is stored in a layout for one GPU, expected row-major "
            "(weight_format 0); save the model again with a recent bitsandbytes"
        )

    def decode() -> F32:
        q = weight.to_numpy()
        out = affine(q.shape, lambda rows: q[rows], None, scale.to_float32()[:, None], None, "f32")
        out *= np.float32(1 / 127)
        return out

    return QuantizedTensor(f"{base}.weight", weight.shape, "bnb_int8", weight.nbytes + scale.nbytes, decode)
