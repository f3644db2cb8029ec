"""The arithmetic of the native runtime's products."""

from __future__ import annotations

from collections.abc import Collection

from ordito.spec import Spec

ARITHMETIC = {"int8": "f16", "int12": "f16", "float32": "f32"}
"""Arithmetic of products -> the type of the KV cache that it uses by default.

Activations are quantized in blocks of 32 with one scale: `int12` to 12 bits, `int8` to 8 bits, but for the group of
four neighbours with the largest of a block, which keeps 12; `float32` leaves them as they are. Weights that are not quantized
are, except in `float32`, multiplied as integers of 16 bits, and activations with them, where the kernels have such products."""


def default_dtype(spec: Spec, encodings: Collection[str]) -> str:
    """The arithmetic of a model whose weights are stored in these encodings.

    `float32` if all are fp32, except for models that embed texts: cosines of vectors do not need it.
    """
    return "float32" if set(encodings) == {"f32"} and spec.pooling is None else "int12"
