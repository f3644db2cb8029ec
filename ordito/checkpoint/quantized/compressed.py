"""The formats of the compressed-tensors package that vLLM's tools write: 8 bits with scales, and packed integers.

    "float-quantized", "int-quantized", "naive-quantized"
        X.weight f8_e4m3 or int8, X.weight_scale, X.weight_zero_point: see `scaled`
    "pack-quantized"
        X.weight_packed      int32 (out, in * bits / 32)    q + 2^(bits - 1), packed along the inputs
        X.weight_scale       float (out, groups) or for all
        X.weight_zero_point  int32 (out * bits / 32, groups), packed along the outputs; absent if symmetric
        X.weight_shape       (out, in)

as in the package's `compressors/pack_quantized`. The integers of 1 to 8 bits lie end to end, across the words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil, prod

import numpy as np

from ordito.checkpoint.quantized.affine import affine, fields
from ordito.checkpoint.quantized.fp8 import ACTIVATION_SCALES, block_size
from ordito.checkpoint.quantized.parts import FLOATS, Parts, QuantizedTensor
from ordito.checkpoint.quantized.scaled import scaled
from ordito.checkpoint.unpacking import F32
from ordito.errors import CheckpointError
from ordito.families.reader import Reader

_FORMATS = ("dense", "float-quantized", "int-quantized", "naive-quantized", "pack-quantized")


def compressed_tensors(parts: Parts, config: Reader) -> Iterator[QuantizedTensor]:
    """Weights of `quant_method: compressed-tensors`."""
    groups = [Reader(group, config.where) for group in _objects(config)]
    for form in {config.text("format", "dense"), *(group.text("format", "dense") for group in groups)} - {"mixed-precision"}:
        if form not in _FORMATS:
            raise CheckpointError(f"{config.where}: the format is {form!r}, expected one of {', '.join(_FORMATS)}")
    weights = [section for group in groups if (section := group.section("weights")) is not None]
    bits = {section.size("num_bits", 8) for section in weights}
    blocks = {block for section in weights if (block := block_size(section, "block_structure")) is not None}
    block = blocks.pop() if len(blocks) == 1 else None

    parts.discard(*ACTIVATION_SCALES)
    for base in parts.bases(".weight_packed"):
        yield _packed(parts, base, bits)
    for base in parts.bases(".weight_scale"):
        weight = parts.take(f"{base}.weight", ("f8_e4m3", "i8"), (2, 3))
        scale = parts.take(f"{base}.weight_scale", FLOATS, (0, 1, 2, 3))
        zero = parts.take_optional(f"{base}.weight_zero_point", ("i8",), (0, 1, 2, 3))
        yield scaled(parts, weight, scale, block, zero)


def _objects(config: Reader) -> list[Mapping[str, object]]:
    """The groups of `config_groups`, each with the quantization settings of some modules."""
    groups = config.get("config_groups", {})
    if not isinstance(groups, Mapping) or not all(isinstance(group, Mapping) for group in groups.values()):
        raise config.fail("config_groups", groups, "an object of objects")
    return list(groups.values())


def _packed(parts: Parts, base: str, configured: set[int]) -> QuantizedTensor:
    packed = parts.take(f"{base}.weight_packed", ("i32",), (2,))
    scale = parts.take(f"{base}.weight_scale", FLOATS, (0, 1, 2))
    zero = parts.take_optional(f"{base}.weight_zero_point", ("i32",), (2,))
    stated = parts.take(f"{base}.weight_shape", ("i32", "i64"), (1,))
    parts.check(stated, 2)
    rows, columns = (int(size) for size in stated.to_numpy())
    # Groups are assigned to modules by patterns of names, which are not needed: the tensor's width gives the bits.
    fitting = {b for b in configured if 1 <= b <= 8 and columns > 0 and packed.shape == (rows, ceil(columns * b / 32))}
    if len(fitting) != 1:
        widths = " or ".join(map(str, sorted(configured)))
        raise parts.error(packed, f"the words of {rows} rows of {columns} integers of {widths} bits")
    bits = fitting.pop()
    one = prod(scale.shape) == 1
    groups = scale.shape[1] if len(scale.shape) == 2 else 1
    if (not one and scale.shape not in ((rows, groups), (rows,))) or columns % groups:
        raise parts.error(scale, f"one scale, or groups of equal size for each of {rows} rows of {columns}")
    if zero is not None:
        parts.check(zero, ceil(rows * bits / 32), groups)

    def decode() -> F32:
        words = packed.to_numpy()
        scales = np.broadcast_to(scale.to_float32().reshape(-1, groups), (rows, groups))
        if zero is None:
            zeros = np.broadcast_to(np.uint8(1 << (bits - 1)), scales.shape)
        else:
            zeros = fields(np.ascontiguousarray(zero.to_numpy().T).view(np.uint8), bits)[:, :rows].T
        return affine(
            (rows, columns),
            lambda part: fields(words[part].view(np.uint8), bits)[:, :columns],
            zeros,
            scales,
            None,
            scale.encoding,
        )

    nbytes = packed.nbytes + scale.nbytes + (zero.nbytes if zero is not None else 0)
    return QuantizedTensor(f"{base}.weight", (rows, columns), f"int{bits}_packed", nbytes, decode)
