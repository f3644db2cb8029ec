"""The size of a model in each of the usual quantizations."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from ordito.checkpoint.mixes import encodings, mix_named
from ordito.checkpoint.outline import Held
from ordito.checkpoint.stored import ENCODINGS
from ordito.spec import Spec
from ordito.spec.node import Shape


def held_as(spec: Spec, quantization: str) -> Mapping[str, Held]:
    """How each tensor of `spec` is stored in a quantization, by its canonical name. `OrditoError` for unknown ones."""
    shapes = spec.tensors()
    return {name: _held(shapes[name], encoding) for name, encoding in encodings(spec, mix_named(quantization)).items()}


def _held(shape: Shape, encoding: str) -> Held:
    form = ENCODINGS[encoding]
    return Held(encoding, prod(shape) // form.block_size * form.block_bytes)
