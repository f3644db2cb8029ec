"""A checkpoint whose tensors are quantized on the fly: each is encoded when it is read."""

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
    """One of our tensors in another encoding than the files'; its bytes are computed anew on every access."""

    checkpoint: Checkpoint
    name: str
    shape: Shape
    encoding: str

    @property
    def nbytes(self) -> int:
        """Bytes in this encoding."""
        form = ENCODINGS[self.encoding]
        return prod(self.shape) // form.block_size * form.block_bytes

    @property
    def data(self) -> NDArray[np.uint8]:
        """Its bytes, (nbytes,)."""
        return encode(self.name, self.checkpoint.read(self.name), self.encoding).reshape(-1)

    def to_float32(self) -> NDArray[np.float32]:
        """The values after rounding, in `shape`."""
        return StoredTensor(self.name, self.shape, self.encoding, self.data).to_float32()


def rounded(checkpoint: Checkpoint, quantization: str) -> Checkpoint:
    """`checkpoint` quantized to one of `MIXES` (q4_k_m, q8_0, ...). Raises `OrditoError` for an unknown one."""
    shapes = checkpoint.spec.tensors()
    chosen = encodings(checkpoint.spec, mix_named(quantization))
    stored = {name: Rounded(checkpoint, name, shape, chosen[name]) for name, shape in shapes.items()}
    bindings = [Binding((name,), (name,), (shape,)) for name, shape in shapes.items()]
    return replace(checkpoint, stored=stored, bindings=bindings)


def already_rounded(checkpoint: Checkpoint) -> str | None:
    """The most frequent quantized encoding of a checkpoint but for q8_0, or None: quantizing such weights again loses more."""
    return next((encoding for encoding in checkpoint.encodings if encoding not in (*PLAIN, "f64", "q8_0")), None)
