"""A quantized weight, and the file's tensors of which it consists."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ordito.checkpoint.stored import DOWNLOAD_AGAIN, StoredTensor, shown
from ordito.checkpoint.unpacking import F32
from ordito.errors import CheckpointError

FLOATS = ("f16", "bf16", "f32")


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedTensor:
    """A weight that a file stores as several tensors, read as one `Stored` tensor of the plain name and shape."""

    name: str
    shape: tuple[int, ...]
    encoding: str
    nbytes: int
    decode: Callable[[], F32] = field(repr=False)

    def to_float32(self) -> F32:
        """The values in `shape`, decoded on every call."""
        # Damaged scales give infinities and NaN without warnings, as in `dequantize`.
        with np.errstate(all="ignore"):
            return self.decode()


class Parts:
    """A file's tensors, from which those of quantized weights are removed one by one; `left` are the remaining ones."""

    def __init__(self, tensors: Mapping[str, StoredTensor], where: str) -> None:
        self.left: dict[str, StoredTensor] = dict(tensors)
        self.where = where

    def bases(self, suffix: str) -> list[str]:
        """The names that end in `suffix`, without it."""
        return [name.removesuffix(suffix) for name in self.left if name.endswith(suffix)]

    def take(self, name: str, encodings: tuple[str, ...], dimensions: tuple[int, ...]) -> StoredTensor:
        """Remove and return a tensor. Raises `CheckpointError` if it is missing or has another encoding or rank."""
        tensor = self.take_optional(name, encodings, dimensions)
        if tensor is None:
            raise CheckpointError(
                f"{self.where}: tensor {shown(name)} is missing, which a quantized weight needs; {DOWNLOAD_AGAIN}"
            )
        return tensor

    def take_optional(self, name: str, encodings: tuple[str, ...], dimensions: tuple[int, ...]) -> StoredTensor | None:
        """The same for a tensor that may be missing: None then."""
        tensor = self.left.pop(name, None)
        if tensor is None:
            return None
        if tensor.encoding not in encodings or len(tensor.shape) not in dimensions or 0 in tensor.shape:
            raise self.error(
                tensor, f"{' or '.join(encodings)} of {' or '.join(map(str, dimensions))} dimensions, none of them 0"
            )
        return tensor

    def discard(self, *suffixes: str) -> None:
        """Remove the tensors that have one of these suffixes and do not concern weights: the scales of activations."""
        self.left = {name: tensor for name, tensor in self.left.items() if not name.endswith(suffixes)}

    def error(self, tensor: StoredTensor, expected: str) -> CheckpointError:
        """The error for a tensor that does not fit the others."""
        return CheckpointError(
            f"{self.where}: tensor {shown(tensor.name)} is {tensor.encoding} of the shape {list(tensor.shape)}, "
            f"expected {expected}; {DOWNLOAD_AGAIN}"
        )

    def check(self, tensor: StoredTensor, *shape: int) -> None:
        """Raise `CheckpointError` unless the tensor has this shape."""
        if tensor.shape != shape:
            raise self.error(tensor, f"the shape {list(shape)}")
