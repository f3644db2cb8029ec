"""A checkpoint's tensors, packed for the C++ kernels.

Quantized rows are passed as the bytes of the file; where a binding reorders, fuses or stacks rows, that is done to the bytes.
Only tensors whose numbers change, or whose columns are mixed, are dequantized first.
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
"""Encodings that have kernels; others are converted to fp16 when a model is loaded."""


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
        """A vector in fp32, or None if the checkpoint has none of that name."""
        return self.array(name) if self.has(name) else None

    def matrix(self, name: str, split: bool = False) -> _core.Packed:
        """A matrix (out, in); with `split`, the codes of Q8_0 and Q6_K are split for screening."""
        encoding, rows = self._rows(name)
        return self._pack(encoding, rows, self._shapes[name][-1], split)

    def matrices(self, name: str) -> list[_core.Packed]:
        """The matrices (out, in) of E experts, which the checkpoint stacks on a first axis."""
        encoding, rows = self._rows(name)
        return [self._pack(encoding, one, self._shapes[name][-1]) for one in rows]

    def pack(self, matrix: Floats, exact: bool = True) -> _core.Packed:
        """A matrix computed here, packed in fp32 or, if not `exact`, in fp16, as which it is multiplied."""
        encoding = "f32" if exact else "f16"
        return self._pack(encoding, _bytes_of(matrix, encoding), matrix.shape[-1], keep=True)

    def is_exact(self, name: str) -> bool:
        """Whether a tensor is stored in fp32."""
        return self._encoding([self.checkpoint.stored[theirs] for theirs in self._bindings[name].theirs]) == "f32"

    def _pack(self, encoding: str, rows: np.ndarray, columns: int, split: bool = False, *, keep: bool = False) -> _core.Packed:
        packed = self.machine.allocate(encoding, rows.shape[0], columns, split, keep)
        flat = np.ascontiguousarray(rows).reshape(-1)
        self.machine.fill(packed, flat, mapping(flat) is not None)
        return packed

    def let_go(self) -> None:
        """Release the files' pages that were read here; those of matrices that are still being packed are released later."""
        self.checkpoint.let_go()

    def _rows(self, name: str) -> tuple[str, np.ndarray]:
        """The encoding that a tensor is packed in, and the bytes of its rows, (..., out, bytes of a row)."""
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
    """A stored tensor's bytes, (..., rows, bytes of a row)."""
    form = ENCODINGS[tensor.encoding]
    *outer, columns = tensor.shape
    return tensor.data.reshape(*outer, columns // form.block_size * form.block_bytes)


def _keeps_rows(binding: Binding) -> bool:
    """Whether each row of our tensors is a whole row of the file's."""
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
    """A tensor of floats as bytes of rows, (..., bytes of a row)."""
    if encoding == "bf16":  # the numbers were read from bf16, so that truncation loses nothing
        half = (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    else:
        half = np.ascontiguousarray(array, np.float16 if encoding == "f16" else np.float32)
    return half.view(np.uint8)
