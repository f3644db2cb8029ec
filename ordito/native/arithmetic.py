"""The arithmetic of the native runtime's products."""

from __future__ import annotations

from collections.abc import Collection
from math import prod

from ordito.spec import Spec

ARITHMETIC = ("int8", "int12", "float32")
"""The arithmetic of products.

Activations are quantized in blocks of 32 with one scale: `int12` to 12 bits, `int8` to 8 bits, but for the group of
four neighbours with the largest of a block, which keeps 12; `float32` leaves them as they are. Weights that are not quantized
are, except in `float32`, multiplied as integers of 16 bits, and activations with them, where the kernels have such products."""

CACHES = ("f32", "f16", "q8", "int16")
"""Types of the KV cache: `q8` and `int16` have a scale for each key and each value of a head."""

LARGE = 10**9
"""Parameters from which on `int8` is the default: products are nearly all of the time there, and take half of it in 8 bits."""


def integer_dtype(spec: Spec) -> str:
    """The arithmetic of a model's quantized weights, unless another one is asked for."""
    return "int8" if sum(prod(shape) for shape in spec.tensors().values()) >= LARGE else "int12"


def default_dtype(spec: Spec, encodings: Collection[str]) -> str:
    """The arithmetic of a model whose weights are stored in these encodings.

    `float32` if all are fp32, except for models that embed texts: cosines of vectors do not need it.
    """
    return "float32" if set(encodings) == {"f32"} and spec.pooling is None else integer_dtype(spec)


def default_cache(dtype: str, int16: bool) -> str:
    """The type of the KV cache: `int16`, whose products are twice as fast as those of fp32, if the kernels have them."""
    return "f32" if dtype == "float32" else "int16" if int16 else "f16"
