"""A checkpoint's tensors as the C++ kernels read them.

Quantized rows are handed over as the bytes that the file has; what a format does to rows (order, fusing, stacking) is done to
those bytes. Only what changes numbers, or mixes columns, is decoded first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ordito import _core
from ordito.checkpoint.assemble import ours_from
from ordito.checkpoint.checkpoint import Checkpoint
from ordito.checkpoint.rounded import Rounded
from ordito.checkpoint.stored import ENCODINGS, Stored, StoredTensor, mapping
from ordito.families.naming import Binding, Composed, Interleaved, Permuted, Transform
from ordito.runtime import Floats

KERNELS = frozenset(
    (
        "f32",
        "f16",
        "bf16",
        "q4_0",
        "q4_1",
        "q5_0",
        "q5_1",
        "q8_0",
        "q2_k",
        "q3_k",
        "q4_k",
        "q5_k",
        "q6_k",
        "iq4_nl",
        "iq4_xs",
        "mxfp4",
    )
)
"""Encodings that there are kernels for; others are decoded to fp16 when a model is loaded."""


class Weights:
    """Reads a checkpoint's tensors by their canonical names."""

    def __init__(self, checkpoint: Checkpoint, machine: _core.Machine) -> None:
        self.checkpoint, self.machine = checkpoint, machine
        self._shapes = checkpoint.spec.tensors()
        self._bindings = {name: binding for binding in checkpoint.bindings for name in binding.ours}

    def has(self, name: str) -> bool:
        """Whether the checkpoint has a tensor of that name."""
        return name in self._bindings

    def array(self, name: str) -> Floats:
        """A tensor in fp32."""
        return np.ascontiguousarray(self.checkpoint.read(name), np.float32)

    def vector(self, name: str) -> Floats | None:
        """A vector in fp32, or None if there is none of that name."""
        return self.array(name) if self.has(name) else None

    def matrix(self, name: str, in_parts: bool = False) -> _core.Packed:
        """A matrix (out, in), with its codes `in_parts` if so wanted and it is of Q8_0 or Q6_K."""
        encoding, rows = self._rows(name)
        return self._packed(encoding, rows, self._shapes[name][-1], in_parts)

    def matrices(self, name: str) -> list[_core.Packed]:
        """The matrices (out, in) of E experts, stacked on a first axis."""
        encoding, rows = self._rows(name)
        return [self._packed(encoding, one, self._shapes[name][-1]) for one in rows]

    def plain(self, matrix: Floats, exact: bool = True) -> _core.Packed:
        """A matrix made here, kept in fp32 or, if not `exact`, in fp16."""
        encoding = "f32" if exact else "f16"
        return self._packed(encoding, _bytes_of(matrix, encoding), matrix.shape[-1])

    def is_exact(self, name: str) -> bool:
        """Whether a tensor is stored in fp32."""
        return self._encoding([self.checkpoint.stored[theirs] for theirs in self._bindings[name].theirs]) == "f32"

    def _packed(self, encoding: str, rows: np.ndarray, columns: int, in_parts: bool = False) -> _core.Packed:
        packed = self.machine.room(encoding, rows.shape[0], columns, in_parts)
        whole = np.ascontiguousarray(rows).reshape(-1)
        self.machine.fill(packed, whole, mapping(whole) is not None)
        return packed

    def let_go(self) -> None:
        """Give back the memory of the files for what was read of them here; what is packed meanwhile is let go as it is."""
        self.checkpoint.let_go()

    def _rows(self, name: str) -> tuple[str, np.ndarray]:
        """The encoding that a tensor is to have, and the bytes of its rows, (..., out, bytes of a row)."""
        binding = self._bindings[name]
        stored = [self.checkpoint.stored[theirs] for theirs in binding.theirs]
        encoding = self._encoding(stored)
        if all(
            isinstance(tensor, (StoredTensor, Rounded)) and tensor.encoding == encoding for tensor in stored
        ) and _keeps_rows(binding):
            return encoding, ours_from(binding, [_raw(tensor) for tensor in stored])[name]
        if encoding not in ("f32", "bf16"):
            encoding = "f16"
        return encoding, _bytes_of(self.checkpoint.read(name), encoding)

    def _encoding(self, stored: Sequence[Stored]) -> str:
        encodings = {tensor.encoding for tensor in stored}
        if len(encodings) == 1 and encodings <= KERNELS:
            return encodings.pop()
        return "f32" if encodings <= {"f32", "f64"} else "f16"


def _raw(tensor: Any) -> np.ndarray:
    """The bytes of a stored tensor, (..., rows, bytes of a row)."""
    form = ENCODINGS[tensor.encoding]
    *outer, columns = tensor.shape
    return tensor.data.reshape(*outer, columns // form.block_size * form.block_bytes)


def _keeps_rows(binding: Binding) -> bool:
    """Whether ours are theirs, row by row."""
    return len(binding.shapes[0]) > 1 and all(map(_moves_rows, (binding.whole, *binding.each)))


def _moves_rows(change: Transform | None) -> bool:
    match change:
        case None | Permuted():
            return True
        case Interleaved():
            return change.axis >= 0
        case Composed():
            return all(map(_moves_rows, change.parts))
    return False


def _bytes_of(array: np.ndarray, encoding: str) -> np.ndarray:
    """A tensor of floats as bytes, (..., bytes of a row)."""
    if encoding == "bf16":  # of numbers that were read from bf16, so that nothing is lost
        half = (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    else:
        half = np.ascontiguousarray(array, np.float16 if encoding == "f16" else np.float32)
    return half.view(np.uint8)
