"""A checkpoint as it would be if its matrices were quantized: each is rounded when it is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from ordito.checkpoint.checkpoint import Checkpoint
from ordito.checkpoint.encode import PLAIN, encode
from ordito.checkpoint.mixes import encodings, mix_named
from ordito.checkpoint.stored import ENCODINGS, StoredTensor
from ordito.families.naming import Binding
from ordito.spec.node import Shape


@dataclass(frozen=True, eq=False)
class Rounded:
    """One of our tensors in an encoding that no file has it in; the bytes are made anew whenever they are asked for."""

    checkpoint: Checkpoint
    name: str
    shape: Shape
    encoding: str

    @property
    def nbytes(self) -> int:
        """Bytes that a file would need for it."""
        form = ENCODINGS[self.encoding]
        return prod(self.shape) // form.block_size * form.block_bytes

    @property
    def data(self) -> NDArray[np.uint8]:
        """Its bytes, in one row."""
        return encode(self.name, self.checkpoint.read(self.name), self.encoding).reshape(-1)

    def to_float32(self) -> NDArray[np.float32]:
        """The values, as they are after rounding."""
        return StoredTensor(self.name, self.shape, self.encoding, self.data).to_float32()


def rounded(checkpoint: Checkpoint, quantization: str) -> Checkpoint:
    """`checkpoint` with its matrices in a quantization of `MIXES` (q4_k_m, q8_0, ...).

    Raises `OrditoError` for an unknown one.
    """
    shapes = checkpoint.spec.tensors()
    chosen = encodings(checkpoint.spec, mix_named(quantization))
    stored = {name: Rounded(checkpoint, name, shape, chosen[name]) for name, shape in shapes.items()}
    bindings = [Binding((name,), (name,), (shape,)) for name, shape in shapes.items()]
    return replace(checkpoint, stored=stored, bindings=bindings)


def already_rounded(checkpoint: Checkpoint) -> str | None:
    """The most frequent encoding of fewer than 8 bits, if a checkpoint has one: rounding its numbers again loses more."""
    return next((encoding for encoding in checkpoint.encodings if encoding not in (*PLAIN, "f64", "q8_0")), None)
