"""Importance matrices: for each matrix of a model, the mean square of the input of each of its columns on real text.

An error e in column i of W changes W x by e x_i, the square of which is e² E[x_i²] in the mean: E[x_i²] is the weight of this
column's rounding errors in quantization. Files are those of llama.cpp's `llama-imatrix`, GGUF or the older .dat, with GGUF's
names of tensors:

    GGUF   <tensor>.in_sum2 (E, columns): sums of squares, of each expert; <tensor>.counts (E, 1): of how many tokens
    .dat   count i32, entries of (length i32, name, calls i32, values i32, float[values]), then calls i32, the text's name
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordito.checkpoint.gguf import read_gguf
from ordito.checkpoint.gguf_write import Planned, write_gguf
from ordito.checkpoint.stored import DOWNLOAD_AGAIN, map_file, shown
from ordito.errors import CheckpointError
from ordito.strings import Strings

_SUMS, _COUNTS = ".in_sum2", ".counts"
_MAX_NAME = 4096


@dataclass(frozen=True)
class Importance:
    """`sums` of squares (E, columns) and `counts` of tokens (E,) by GGUF's names of tensors; E is 1 except for stacked experts.

    They were collected on `windows` of `context` tokens each of the texts `datasets`; `file` is the file's name.
    """

    sums: Mapping[str, NDArray[np.float32]]
    counts: Mapping[str, NDArray[np.float32]]
    datasets: tuple[str, ...] = ()
    windows: int = 0
    context: int = 0
    file: str = field(default="", compare=False)

    def of(self, name: str) -> NDArray[np.float32] | None:
        """Mean squares of a tensor's inputs, (E, columns); 1 for experts that no token chose. None for unknown tensors."""
        if name not in self.sums:
            return None
        counts = self.counts[name][:, None]
        return np.where(counts > 0, self.sums[name] / np.where(counts > 0, counts, 1), 1).astype(np.float32)

    @property
    def about(self) -> dict[str, Any]:
        """The metadata of a quantized GGUF file about its importance matrix."""
        found: dict[str, Any] = {"quantize.imatrix.file": self.file, "quantize.imatrix.entries_count": len(self.sums)}
        if self.datasets:
            found["quantize.imatrix.dataset"] = self.datasets[0]
        return found | {"quantize.imatrix.chunks_count": self.windows}


def read_importance(path: Path) -> Importance:
    """Read a file in either format. Raises `CheckpointError` if it is damaged, or not an importance matrix."""
    data = map_file(path)
    return _read_gguf(path) if data[:4] == b"GGUF" else _read_dat(path, memoryview(data))


def write_importance(path: Path, importance: Importance) -> None:
    """Write a GGUF file that llama.cpp reads. Raises `CheckpointError` if it cannot be written."""
    metadata = {
        "general.type": "imatrix",
        "imatrix.datasets": list(importance.datasets) or [""],
        "imatrix.chunk_count": importance.windows,
        "imatrix.chunk_size": importance.context,
    }
    arrays: list[tuple[str, NDArray[np.float32]]] = []
    for name in sorted(importance.sums):
        arrays += [(name + _SUMS, importance.sums[name]), (name + _COUNTS, importance.counts[name][:, None])]
    write_gguf(path, metadata, [Planned(name, array.shape, "f32") for name, array in arrays], arrays)


def _read_gguf(path: Path) -> Importance:
    file = read_gguf(path)
    if file.metadata.get("general.type") != "imatrix":
        raise CheckpointError(f"{path}: is a GGUF file without an importance matrix, expected one that `ordito imatrix` wrote")
    sums, counts = {}, {}
    for name, tensor in file.tensors.items():
        if not name.endswith(_SUMS):
            continue
        of = name.removesuffix(_SUMS)
        if of + _COUNTS not in file.tensors:
            raise CheckpointError(f"{path}: {shown(name)} is there but not its counts; {DOWNLOAD_AGAIN}")
        sums[of] = _matrix(tensor.to_float32())
        counts[of] = file.tensors[of + _COUNTS].to_float32().reshape(-1)
        if len(counts[of]) != len(sums[of]):
            raise CheckpointError(
                f"{path}: {shown(of)} has {len(sums[of])} matrices and {len(counts[of])} counts; {DOWNLOAD_AGAIN}"
            )
    datasets = file.metadata.get("imatrix.datasets")
    return _checked(
        path,
        Importance(
            sums,
            counts,
            tuple(map(str, datasets)) if isinstance(datasets, Strings) else (),
            _whole(file.metadata.get("imatrix.chunk_count")),
            _whole(file.metadata.get("imatrix.chunk_size")),
            path.name,
        ),
    )


def _whole(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**31 else 0


def _matrix(array: NDArray[np.float32]) -> NDArray[np.float32]:
    return array.reshape(-1, array.shape[-1])


def _read_dat(path: Path, data: memoryview) -> Importance:
    if len(data) < 4 or not 0 <= struct.unpack_from("<i", data)[0] <= len(data) // 12:
        raise CheckpointError(f"{path}: is no importance matrix, expected a file of `ordito imatrix` or llama-imatrix")
    position = 0

    def integer(what: str, most: int) -> int:
        nonlocal position
        if position + 4 > len(data):
            raise CheckpointError(f"{path}: ends at {what}: expected an importance matrix (GGUF or .dat); {DOWNLOAD_AGAIN}")
        value = int(struct.unpack_from("<i", data, position)[0])
        if not 0 <= value <= most:
            raise CheckpointError(
                f"{path}: got {value} for {what}, expected 0 to {most} in an importance matrix (GGUF or .dat); {DOWNLOAD_AGAIN}"
            )
        position += 4
        return value

    def some(nbytes: int, what: str) -> bytes:
        nonlocal position
        if nbytes > len(data) - position:
            raise CheckpointError(f"{path}: ends inside {what}; {DOWNLOAD_AGAIN}")
        position += nbytes
        return bytes(data[position - nbytes : position])

    sums, counts = {}, {}
    for _ in range(integer("the number of entries", len(data) // 12)):
        name = some(integer("the length of a name", _MAX_NAME), "a name").decode("utf-8", "replace")
        calls, width = integer("a number of calls", 2**31 - 1), integer("a number of values", len(data) // 4)
        values = np.frombuffer(some(4 * width, f"the values of {shown(name)}"), "<f4")
        sums[name] = values.reshape(1, -1).astype(np.float32)
        counts[name] = np.array([max(calls, 1)], np.float32)
    windows, datasets = 0, list[str]()
    if position < len(data):
        windows = integer("the number of windows", 2**31 - 1)
        text = some(integer("the length of a name", _MAX_NAME), "the text's name").decode("utf-8", "replace")
        datasets.append(text)
    return _checked(path, Importance(sums, counts, tuple(datasets), windows, 0, path.name))


def _checked(path: Path, found: Importance) -> Importance:
    for name in found.sums:
        bad = [array for array in (found.sums[name], found.counts[name]) if not np.isfinite(array).all() or (array < 0).any()]
        if bad:
            raise CheckpointError(f"{path}: the importances of {shown(name)} are not all finite and positive; {DOWNLOAD_AGAIN}")
    if not found.sums:
        raise CheckpointError(f"{path}: holds no importances")
    return found
