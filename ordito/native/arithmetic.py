"""The arithmetic of the native runtime's products."""

from __future__ import annotations

from collections.abc import Collection
from math import prod

from ordito.spec import Spec

ARITHMETIC = {"int8": "f16", "int12": "f16", "float32": "f32"}
"""Arithmetic of products -> the type of the KV cache that it uses by default.

Activations are quantized in blocks of 32 with one scale: `int12` to 12 bits, `int8` to 8 bits, but for the group of
four neighbours with the largest of a block, which keeps 12; `float32` leaves them as they are. Weights that are not quantized
are, except in `float32`, multiplied as integers of 16 bits, and activations with them, where the kernels have such products."""

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
