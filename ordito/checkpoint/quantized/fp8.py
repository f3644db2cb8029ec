"""8-bit floats with scales: `quant_method: fp8`, of DeepSeek, Qwen and vLLM's AutoFP8.

    X            f8_e4m3 (..., rows, columns)
    X_scale_inv  float: the scale that X is multiplied by (despite its name), one per block of `weight_block_size`
    X_scale      float: the same, one for the tensor or one per row

as in `weight_dequant` of DeepSeek-V3's `inference/kernel.py`, whose last blocks may be partial.
"""

from __future__ import annotations

from collections.abc import Iterator

from ordito.checkpoint.quantized.parts import FLOATS, Parts, QuantizedTensor
from ordito.checkpoint.quantized.scaled import scaled
from ordito.families.reader import Reader

# Scales for quantized activations and KV caches, which are not used here.
ACTIVATION_SCALES = (".input_scale", ".output_scale", ".activation_scale", ".k_scale", ".v_scale", ".q_scale")


def fp8(parts: Parts, config: Reader) -> Iterator[QuantizedTensor]:
    """Weights of `quant_method: fp8`."""
    parts.discard(*ACTIVATION_SCALES)
    block = block_size(config, "weight_block_size")
    for suffix in ("_scale_inv", "_scale"):
        for base in parts.bases(suffix):
            if base not in parts.left:
                continue  # a parameter of the model that happens to have this suffix
            weight = parts.take(base, ("f8_e4m3", "f8_e5m2"), (2, 3))
            yield scaled(parts, weight, parts.take(base + suffix, FLOATS, (0, 1, 2, 3)), block)


def block_size(config: Reader, key: str) -> tuple[int, int] | None:
    """A list of two sizes, (rows, columns)."""
    sizes = config.items(key, None)
    if sizes is None:
        return None
    if len(sizes) != 2 or not all(type(size) is int and 0 < size < 1 << 31 for size in sizes):
        raise config.fail(key, sizes, "two sizes of at least 1")
    return sizes[0], sizes[1]
